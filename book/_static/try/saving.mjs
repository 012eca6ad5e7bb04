// Write what was found as files for other programs, each by the ending of its name.

import { outlines, table } from "./objects.mjs";

export const save = {
  /** A mask: 255 in the objects and 0 outside. */
  png({ labels, height, width }) {
    const canvas = new OffscreenCanvas(width, height), picture = new ImageData(width, height);
    new Uint32Array(picture.data.buffer).set(labels.map((label) => (label ? -1 : -(2 ** 24))));
    canvas.getContext("2d").putImageData(picture, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  },
  /** The numbers of the objects, uncompressed, of 16 or 32 bit. */
  tif({ labels, areas, height, width }) {
    const numbers = areas.length < 2 ** 16 ? Uint16Array.from(labels) : labels;
    const tags = [[256, width], [257, height], [258, 8 * numbers.BYTES_PER_ELEMENT], [259, 1],
      [262, 1], [273, 134], [277, 1], [278, height], [279, numbers.byteLength], [339, 1]];
    const entries = tags.flatMap(([tag, value]) => [tag, 4, 1, 0, value % 65536, value >>> 16]);
    return new Blob([Uint16Array.of(0x4949, 42, 8, 0, tags.length, ...entries, 0, 0), numbers]);
  },
  csv: (found) => new Blob([`${table(found).join("\n")}\n`]),
  /** The outlines for ImageJ's ROI manager, named after class and number. */
  async zip({ cls, ...found }, folder) {
    const { zipSync } = await import(`${folder}fflate.js`), all = await outlines(found, folder);
    return new Blob([zipSync(Object.fromEntries(
      all.map((loops, i) => [`class${cls}-${i + 1}.roi`, roi(loops)])))]);
  },
};

/** Write the outlines of an object as ImageJ's ROI, a shape. */
function roi(loops) {
  const path = loops.flatMap((loop) => [...loop.flatMap((xy, i) => [+(i > 0), ...xy]), 4]);
  const view = new DataView(new ArrayBuffer(64 + 4 * path.length));
  const end = (k, way) => loops.flat().reduce((best, xy) => way(best, xy[k]), loops[0][0][k]);
  const [top, left] = [1, 0].map((k) => Math.floor(end(k, Math.min)));
  const [bottom, right] = [1, 0].map((k) => Math.ceil(end(k, Math.max)));
  view.setUint32(0, 0x496f7574); // "Iout"
  [228, 0x100, top, left, bottom, right].forEach((value, i) => view.setInt16(4 + 2 * i, value));
  view.setInt32(36, path.length);
  path.forEach((value, i) => view.setFloat32(64 + 4 * i, value));
  return new Uint8Array(view.buffer);
}
