// Read a picture's numbers, scale them for a network, and show them: micranet_helpers.files.images
// and explore.steps. An image has planes (typed arrays, row by row), a height and a width.

import { range } from "./maps.mjs";

const MOST_PIXELS = 5e7;

/** Read PNG, JPEG, BMP or TIFF from its bytes; ``tiffReader`` loads a library when it is needed. */
export async function decode(bytes, tiffReader) {
  const head = String.fromCharCode(...bytes.slice(0, 4));
  if (/^(II[*+]\0|MM\0[*+])/.test(head)) return readTiff(bytes, await tiffReader());
  if (!/^(\x89PNG|\xff\xd8\xff|BM)/.test(head)) {
    throw new Error("This is no PNG, JPEG, BMP or TIFF picture: save it as one, e.g. with Fiji.");
  }
  if (head.endsWith("PNG") && bytes[24] === 16) {
    throw new Error("Browsers cut a PNG of 16 bits to 8: save it as TIFF.");
  }
  return readByBrowser(bytes);
}

async function readByBrowser(bytes) {
  const asStored = { colorSpaceConversion: "none", premultiplyAlpha: "none",
    imageOrientation: "none" };
  const bitmap = await createImageBitmap(new Blob([bytes]), asStored).catch(() => {
    throw new Error("The picture is damaged, or too large for the browser: save it anew as TIFF.");
  });
  const { height, width } = bitmap;
  checkSize(height, width);
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const [red, green, blue, alpha] = [0, 1, 2, 3].map((k) =>
    new Uint8Array(height * width).map((_, i) => data[4 * i + k]));
  if (alpha.some((value) => value < 255)) {
    throw new Error("The picture is transparent in places: save it without transparency (alpha).");
  }
  const grey = red.every((value, i) => value === green[i] && value === blue[i]);
  return { planes: grey ? [red] : [red, green, blue], height, width };
}

async function readTiff(bytes, { fromArrayBuffer }) {
  const file = await fromArrayBuffer(bytes.buffer), count = await file.getImageCount();
  if (count > 4) throw new Error(`The file holds ${count} images: save single planes.`);
  const all = await Promise.all(Array.from({ length: count }, (_, i) => file.getImage(i)));
  const [height, width] = [all[0].getHeight(), all[0].getWidth()];
  checkSize(height, width);
  if (all.some((each) => each.getHeight() !== height || each.getWidth() !== width)) {
    throw new Error("The file holds images of several sizes: save each as a file of its own.");
  }
  const read = await Promise.all(all.map((each) => each.readRasters()));
  const planes = read.flatMap((rasters) => [...rasters]);
  const extra = count === 1 && all[0].fileDirectory.getValue("ExtraSamples");
  const full = planes[0].BYTES_PER_ELEMENT === 1 ? 255 : 65535;
  const opaque = extra && extra[0] > 0 && planes.at(-1).every((value) => value === full);
  if (planes.some((plane) => plane instanceof Float32Array && !plane.every(Number.isFinite))) {
    throw new Error("The picture holds NaN or infinity: save it as 16 bit.");
  }
  return { planes: opaque ? planes.slice(0, -1) : planes, height, width };
}

function checkSize(height, width) {
  if (height * width > MOST_PIXELS) {
    throw new Error(`The picture has ${height} × ${width} px, too many for a browser: cut a part.`);
  }
}

/** Give an image as many planes as the network takes: grey becomes RGB and colours their mean. */
export function fitted(image, channels) {
  const { planes } = image, found = planes.length;
  if (found === channels) return image;
  if (found === 1 && channels === 3) return { ...image, planes: [0, 0, 0].map(() => planes[0]) };
  if (found === 3 && channels === 1) {
    const grey = planes[0].map((value, i) => (value + planes[1][i] + planes[2][i]) / 3);
    return { ...image, planes: [grey], note: "The network takes grey: the mean of the colours. " };
  }
  throw new Error(`The picture has ${found} channels and the network takes ${channels}: choose a `
    + "picture like those it was trained on.");
}

/** Scale a plane as the network's training images were: "fixed", "minmax" or "standard". */
export function scaled(plane, how) {
  let [low, high] = [0, plane instanceof Uint8Array ? 255 : 1];
  if (how === "fixed" && plane instanceof Uint16Array) {
    throw new Error("The picture has 16 bits, whose full range says nothing: choose the scaling "
      + "minmax or standard, whichever the network was trained with.");
  }
  if (how === "minmax") [low, high] = range(plane);
  if (how === "standard") {
    low = plane.reduce((sum, value) => sum + value, 0) / plane.length;
    high = low + Math.sqrt(plane.reduce((sum, v) => sum + (v - low) ** 2, 0) / plane.length);
  }
  const [offset, factor] = [low, high > low ? 1 / (high - low) : 1].map(Math.fround);
  return new Float32Array(plane).map((value) => Math.fround(value - offset) * factor);
}

/** Show 8-bit colours as they are, all else from least to greatest value: RGBA. */
export function visible({ planes, height, width }) {
  const shown = planes.length === 3 ? planes : planes.slice(0, 1);
  const asIs = planes.length === 3 && planes[0] instanceof Uint8Array;
  const levelled = shown.map((plane) => (asIs ? plane : levels(plane)));
  const picture = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let k = 0; k < 3; k++) picture.data[4 * i + k] = levelled[k % levelled.length][i];
    picture.data[4 * i + 3] = 255;
  }
  return picture;
}

/** Scale a map to levels from 0, its lowest value, to 255, its highest. */
export function levels(map) {
  const [low, high] = range(map), factor = 255 / (high - low || 1);
  const found = new Uint8Array(map.length);
  for (let i = 0; i < map.length; i++) found[i] = (map[i] - low) * factor;
  return found;
}
