// Read a picture as micranet_helpers.files.images does: planes (typed arrays, row by row).

/** Read PNG, JPEG, BMP or TIFF from its bytes; libraries are loaded when they are needed. */
export async function decode(bytes, folder) {
  const head = String.fromCharCode(...bytes.slice(0, 4));
  if (/^(II[*+]\0|MM\0[*+])/.test(head)) {
    await import(`${folder}geotiff.js`);
    return readTiff(bytes, globalThis.GeoTIFF);
  }
  if (!/^(\x89PNG|\xff\xd8\xff|BM)/.test(head)) {
    throw new Error("This is no PNG, JPEG, BMP or TIFF picture: save it as one, e.g. with Fiji.");
  }
  const deep = head.endsWith("PNG") && bytes[24] === 16; // browsers would cut it to 8 bits
  return deep ? readDeep(bytes, await import(`${folder}squoosh_png.js`)) : readByBrowser(bytes);
}

const damaged = () => {
  throw new Error("The picture is damaged, or too large for the browser: save it anew as TIFF.");
};

async function readDeep(bytes, { default: start, decode_rgba16: read }) {
  const sides = new DataView(bytes.buffer, 16);
  checkSize(sides.getUint32(4), sides.getUint32(0));
  return separated(await start().then(() => read(bytes)).catch(damaged));
}

async function readByBrowser(bytes) {
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none",
    premultiplyAlpha: "none", imageOrientation: "from-image" }).catch(damaged);
  const { height, width } = bitmap;
  checkSize(height, width);
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return separated(context.getImageData(0, 0, width, height));
}

/** Take red, green and blue apart; grey has one plane. */
function separated({ data, height, width }) {
  const Numbers = data instanceof Uint16Array ? Uint16Array : Uint8Array;
  const [red, green, blue, alpha] = [0, 1, 2, 3].map((k) =>
    new Numbers(height * width).map((_, i) => data[4 * i + k]));
  if (alpha.some((value) => value < 2 ** (8 * Numbers.BYTES_PER_ELEMENT) - 1)) {
    throw new Error("The picture is transparent in places: save it without transparency (alpha).");
  }
  const grey = red.every((value, i) => value === green[i] && value === blue[i]);
  return { planes: grey ? [red] : [red, green, blue], height, width };
}

async function readTiff(bytes, { fromArrayBuffer }) {
  const file = await fromArrayBuffer(bytes.buffer), count = await file.getImageCount();
  const all = await Promise.all(Array.from({ length: count }, (_, i) => file.getImage(i)));
  const [height, width] = [all[0].getHeight(), all[0].getWidth()];
  checkSize(height, width);
  if (count > 4 || all.some((each) => each.getHeight() !== height || each.getWidth() !== width)) {
    throw new Error(`The file holds ${count} images: save single planes.`);
  }
  const read = await Promise.all(all.map((each) => each.readRasters()));
  const planes = read.flatMap((rasters) => [...rasters]);
  if (planes.some((plane) => !plane.every(Number.isFinite))) {
    throw new Error("The picture holds NaN or infinity: save it as 16 bit.");
  }
  return { planes, height, width };
}

function checkSize(height, width) {
  if (height * width > 5e7) {
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
