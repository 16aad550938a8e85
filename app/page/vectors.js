// Vectors as the service sends them (base64), and the cosines of those that have length 1.

export function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

export const float32 = (base64) => new Float32Array(bytesOf(base64).buffer);

let halves = null; // the value of each of the 65536 halves

// IEEE 754 binary16, of which not every browser has an array.
export function float16(base64) {
  halves ??= Float32Array.from({ length: 65536 }, (_, bits) => valueOfHalf(bits));
  return Float32Array.from(new Uint16Array(bytesOf(base64).buffer), (bits) => halves[bits]);
}

function valueOfHalf(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// The product of one row (D) with each row of a matrix (n, D).
export function products(rows, row) {
  const found = new Float32Array(rows.length / row.length);
  for (let i = 0, at = 0; i < found.length; i++) {
    let sum = 0;
    for (let j = 0; j < row.length; j++, at++) sum += rows[at] * row[j];
    found[i] = sum;
  }
  return found;
}
