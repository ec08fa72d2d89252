// Orientation of a structure: unit quaternions [x, y, z, w], and the pose with the largest projected area.

export const IDENTITY = [0, 0, 0, 1];

export function multiply([ax, ay, az, aw], [bx, by, bz, bw]) {
  return [
    aw * bx + ax * bw + ay * bz - az * by,
    aw * by - ax * bz + ay * bw + az * bx,
    aw * bz + ax * by - ay * bx + az * bw,
    aw * bw - ax * bx - ay * by - az * bz,
  ];
}

/** A rotation by two angles (radians) about the screen's vertical and horizontal axes. */
export function turn(dx, dy) {
  const vertical = [0, Math.sin(dx / 2), 0, Math.cos(dx / 2)];
  const horizontal = [Math.sin(dy / 2), 0, 0, Math.cos(dy / 2)];
  return multiply(horizontal, vertical);
}

export function rotate([x, y, z, w], [px, py, pz]) {
  const [tx, ty, tz] = [2 * (y * pz - z * py), 2 * (z * px - x * pz), 2 * (x * py - y * px)];
  return [px + w * tx + y * tz - z * ty, py + w * ty + z * tx - x * tz, pz + w * tz + x * ty - y * tx];
}

export function centre(positions) {
  return [0, 1, 2].map((k) => positions.reduce((sum, p) => sum + p[k], 0) / Math.max(positions.length, 1));
}

export function extent(positions, middle) {
  return Math.max(0, ...positions.map((p) => Math.hypot(...p.map((value, k) => value - middle[k]))));
}

/** The pose with the longest axis across the screen and the shortest axis towards the viewer. */
export function facing(positions) {
  const middle = centre(positions);
  const spread = [0, 1, 2].map((i) =>
    [0, 1, 2].map((j) => positions.reduce((sum, p) => sum + (p[i] - middle[i]) * (p[j] - middle[j]), 0)),
  );
  const long = dominant(spread, [1, 0.7, 0.4]);
  const size = quadratic(spread, long);
  const rest = spread.map((row, i) => row.map((value, j) => value - size * long[i] * long[j]));
  const seed = Math.abs(long[0]) < 0.8 ? [1, 0, 0] : [0, 1, 0];
  const wide = unit(perpendicular(dominant(rest, perpendicular(seed, long)), long));
  return fromRows(long, wide, cross(long, wide));
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const apply = (matrix, v) => matrix.map((row) => dot(row, v));
const quadratic = (matrix, v) => dot(v, apply(matrix, v));
const perpendicular = (v, axis) => v.map((value, k) => value - dot(v, axis) * axis[k]);

function unit(v) {
  const length = Math.hypot(...v);
  return length > 1e-9 ? v.map((value) => value / length) : [0, 1, 0];
}

/** The eigenvector of the largest eigenvalue, by power iteration; forty rounds are enough for a picture. */
function dominant(matrix, start) {
  let v = unit(start);
  for (let round = 0; round < 40; round++) {
    const next = apply(matrix, v);
    if (Math.hypot(...next) < 1e-9) return v;
    v = unit(next);
  }
  return v;
}

/** The quaternion of the rotation whose matrix has these rows (Shepperd's choice of the largest component). */
function fromRows(a, b, c) {
  const trace = a[0] + b[1] + c[2];
  const candidates = [
    [1 + a[0] - b[1] - c[2], a[1] + b[0], c[0] + a[2], c[1] - b[2]],
    [a[1] + b[0], 1 - a[0] + b[1] - c[2], b[2] + c[1], a[2] - c[0]],
    [c[0] + a[2], b[2] + c[1], 1 - a[0] - b[1] + c[2], b[0] - a[1]],
    [c[1] - b[2], a[2] - c[0], b[0] - a[1], 1 + trace],
  ];
  const diagonal = candidates.map((candidate, i) => candidate[i]);
  const best = candidates[diagonal.indexOf(Math.max(...diagonal))];
  const length = Math.hypot(...best);
  return best.map((value) => value / length);
}
