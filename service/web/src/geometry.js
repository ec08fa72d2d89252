// Distances, angles and dihedral angles of positions.

const minus = (a, b) => a.map((value, k) => value - b[k]);
const dot = (a, b) => a.reduce((sum, value, k) => sum + value * b[k], 0);
const cross = ([a, b, c], [x, y, z]) => [b * z - c * y, c * x - a * z, a * y - b * x];
const norm = (a) => Math.sqrt(dot(a, a));
const degrees = (radians) => (180 * radians) / Math.PI;

export const distance = (a, b) => norm(minus(a, b));

/** The angle at b, in degrees. */
export function angle(a, b, c) {
  const [u, v] = [minus(a, b), minus(c, b)];
  return degrees(Math.atan2(norm(cross(u, v)), dot(u, v)));
}

/** The dihedral angle about the axis from b to c, from -180 to 180 degrees (IUPAC sign). */
export function dihedral(a, b, c, d) {
  const [u, axis, v] = [minus(b, a), minus(c, b), minus(d, c)];
  const [n, m] = [cross(u, axis), cross(axis, v)];
  return degrees(Math.atan2(norm(axis) * dot(u, m), dot(n, m)));
}
