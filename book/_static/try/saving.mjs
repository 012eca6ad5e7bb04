// Write what was found as files for other programs: TIFF, CSV, ImageJ's ROIs in a zip.

import { range } from "./maps.mjs";

/** Write the numbers of the objects as an uncompressed grey TIFF of 16 or 32 bit. */
export function tiff({ labels, count }, height, width) {
  const bytes = count < 2 ** 16 ? 2 : 4, start = 134;
  const tags = [[256, width], [257, height], [258, 8 * bytes], [259, 1], [262, 1], [273, start],
    [277, 1], [278, height], [279, bytes * labels.length], [339, 1]];
  const view = new DataView(new ArrayBuffer(start + bytes * labels.length));
  view.setUint32(0, 0x49492a00); // "II", 42: little-endian
  view.setUint32(4, 8, true);
  view.setUint16(8, tags.length, true);
  tags.forEach(([tag, value], i) => {
    [tag, 4].forEach((number, k) => view.setUint16(10 + 12 * i + 2 * k, number, true));
    [1, value].forEach((number, k) => view.setUint32(14 + 12 * i + 4 * k, number, true));
  });
  labels.forEach((label, i) => (bytes === 2 ? view.setUint16(start + 2 * i, label, true)
    : view.setUint32(start + 4 * i, label, true)));
  return view.buffer;
}

/** Write rows as CSV; the columns are named even if there is no row. */
export function csv(rows, columns) {
  return [columns, ...rows.map((row) => columns.map((name) => row[name]))].join("\n") + "\n";
}

/** Write the outlines of an object as ImageJ's ROI: a polygon, or if it has holes a shape. */
function roi(loops) {
  const points = loops.flat(), single = loops.length === 1;
  const path = loops.flatMap((loop) => [...loop.flatMap((xy, i) => [+(i > 0), ...xy]), 4]);
  const [xs, ys] = [0, 1].map((k) => points.map((xy) => xy[k]));
  const [[left, right], [top, bottom]] = [xs, ys].map((values) =>
    range(values).map((value, k) => Math.floor(value) + k));
  const size = single ? 12 * points.length : 4 * path.length;
  const view = new DataView(new ArrayBuffer(64 + size));
  view.setUint32(0, 0x496f7574); // "Iout"
  [[4, 228], [6, single ? 0 : 0x100], [8, top], [10, left], [12, bottom], [14, right],
    [16, single ? points.length : 0], [50, single ? 128 : 0]]
    .forEach(([at, value]) => view.setInt16(at, value));
  if (!single) {
    view.setInt32(36, path.length);
    path.forEach((value, i) => view.setFloat32(64 + 4 * i, value));
    return view.buffer;
  }
  xs.concat(ys).forEach((value, i) => {
    const corner = i < points.length ? left : top;
    view.setInt16(64 + 2 * i, Math.floor(value - corner));
    view.setFloat32(64 + 4 * points.length + 4 * i, value);
  });
  return view.buffer;
}

/** Write the ROIs of all objects, named after class and number. */
export function rois(outlines, name) {
  return zip(outlines.map((loops, i) => [`${name}-${i + 1}.roi`, new Uint8Array(roi(loops))]));
}

/** Pack files without compression. */
function zip(files) {
  const parts = [], directory = [];
  let offset = 0;
  for (const [name, data] of files) {
    const text = new TextEncoder().encode(name);
    // Version 2.0, stored, 1 January 1980.
    const common = [[20, 2], [0, 2], [0, 2], [0, 2], [33, 2], [crc(data), 4], [data.length, 4],
      [data.length, 4], [text.length, 2], [0, 2]];
    const local = [little([[0x04034b50, 4], ...common]), text, data];
    directory.push(little([[0x02014b50, 4], [20, 2], ...common, [0, 2], [0, 2], [0, 2], [0, 4],
      [offset, 4]]), text);
    parts.push(...local);
    offset += local.reduce((sum, part) => sum + part.length, 0);
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = little([[0x06054b50, 4], [0, 2], [0, 2], [files.length, 2], [files.length, 2],
    [size, 4], [offset, 4], [0, 2]]);
  return new Blob([...parts, ...directory, end]);
}

/** Write numbers, each of so many bytes, the lowest first. */
function little(numbers) {
  return Uint8Array.from(numbers.flatMap(([value, bytes]) =>
    Array.from({ length: bytes }, (_, i) => (value >>> (8 * i)) & 255)));
}

function crc(data) {
  let sum = ~0;
  for (const byte of data) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}
