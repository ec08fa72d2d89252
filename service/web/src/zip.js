// A zip archive without compression (APPNOTE 6.3.3, method 0): molecules are small, and every program can read it.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

const crc = (bytes) => ~bytes.reduce((c, byte) => TABLE[(c ^ byte) & 0xff] ^ (c >>> 8), ~0) >>> 0;

const UTF8 = 0x0800;
const DATE = 0x21; // 1 January 1980, the first date of the format: the same molecules give the same file

/** A header from [bytes, value] pairs, little endian. */
function header(fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [size]) => sum + size, 0));
  let at = 0;
  for (const [size, value] of fields) {
    for (let k = 0; k < size; k++) bytes[at++] = (value >>> (8 * k)) & 0xff;
  }
  return bytes;
}

/** files: [[name, text]] -> Blob. */
export function zip(files) {
  const encoder = new TextEncoder();
  const [local, central] = [[], []];
  let offset = 0;
  for (const [name, text] of files) {
    const [path, data] = [encoder.encode(name), encoder.encode(text)];
    const common = [[2, 20], [2, UTF8], [2, 0], [2, 0], [2, DATE], [4, crc(data)], [4, data.length], [4, data.length], [2, path.length], [2, 0]];
    const entry = header([[4, 0x04034b50], ...common]);
    local.push(entry, path, data);
    central.push(header([[4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), path);
    offset += entry.length + path.length + data.length;
  }
  const size = central.reduce((sum, part) => sum + part.length, 0);
  const end = header([[4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, size], [4, offset], [2, 0]]);
  return new Blob([...local, ...central, end], { type: "application/zip" });
}
