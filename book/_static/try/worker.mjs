// Run the network and all that follows from it, away from the page, so that it never freezes.
// A message {id, step, ...} is answered by {id, result} or {id, error}.

import { LAYERS, combine, gaussian, level } from "./maps.mjs";
import { edges, numbered, outlines, table } from "./objects.mjs";
import { decode, fitted, levels, scaled, visible } from "./pixels.mjs";
import { csv, rois, tiff } from "./saving.mjs";

const MOST_BYTES = 1.5e9; // of maps
const state = { run: 0, memory: new Map() };

onmessage = async ({ data: { id, step, ...args } }) => {
  try {
    postMessage({ id, result: await steps[step](args) });
  } catch (error) {
    postMessage({ id, error: sentence(error) });
  }
};

const steps = {
  async runtime({ folder }) {
    if (typeof WebAssembly === "undefined") {
      throw new Error("This browser has no WebAssembly, or it is switched off: try another one.");
    }
    state.folder = folder;
    const wasmBinary = await fetched(`${folder}ort-wasm-simd-threaded.wasm`);
    state.ort = await import(`${folder}ort.wasm.bundle.min.mjs`);
    const threads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
    Object.assign(state.ort.env.wasm, { wasmBinary, numThreads: threads });
  },
  async network({ url, bytes, about }) {
    const graph = bytes ?? (await fetched(url));
    const session = await state.ort.InferenceSession.create(new Uint8Array(graph)).catch(() => {
      throw new Error("This is no ONNX file that onnxruntime can read: export the network anew.");
    });
    if (!session.inputNames.includes("image") || !session.outputNames.includes("maps")) {
      throw new Error("This network gives no maps: export it by to_onnx(path, model, maps=True).");
    }
    const shape = (entries, name) => entries.find((entry) => entry.name === name).shape;
    const count = shape(session.outputMetadata, "logits")[1];
    const classes = JSON.parse(metadata(new Uint8Array(graph)).classes ?? "null");
    const names = classes ?? Array.from({ length: count }, (_, k) => `class ${k}`);
    await state.session?.release();
    state.session = session;
    state.about = { channels: shape(session.inputMetadata, "image")[1], classes: names, ...about };
    return state.about;
  },
  async picture({ url, bytes }) {
    const read = new Uint8Array(bytes ?? (await fetched(url)));
    state.image = await decode(read, async () => {
      await import(`${state.folder}geotiff.js`);
      return globalThis.GeoTIFF;
    });
    return { height: state.image.height, width: state.image.width };
  },
  cancel: () => void (state.run += 1),
  maps,
  draw,
  save({ kind, cls, pixelSize }) {
    const { height, width } = state.image, { found, score } = state;
    const columns = Object.keys(table({ labels: [1], count: 1 }, [0], 1, pixelSize)[0]);
    if (kind === "tif") return new Blob([tiff(found, height, width)]);
    if (kind === "csv") return new Blob([csv(table(found, score, width, pixelSize), columns)]);
    if (kind === "zip") return rois(outlines(found, height, width), `class${cls}`);
    const canvas = new OffscreenCanvas(width, height);
    const mask = painted(found.labels.map((label) => Math.min(label, 1)), BINARY, height, width);
    canvas.getContext("2d").putImageData(mask, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  },
};

const BINARY = [[0, 0, 0], [255, 255, 255]];

async function fetched(url) {
  const reply = await fetch(url).catch(() => ({ status: "no answer" }));
  if (reply.ok) return reply.arrayBuffer();
  throw new Error(`${url.split("/").pop()} could not be loaded (${reply.status}): try again.`);
}

/** Say in one sentence what went wrong. */
function sentence(error) {
  const memory = error instanceof RangeError || /memory|alloc/i.test(error.message ?? error);
  if (memory) return "The memory of the browser is not enough: cut a part of the picture.";
  return error.message ?? `The network could not be run (${error}).`;
}

/** Read the metadata of an ONNX file: pairs of texts in field 14 of its protocol buffer. */
function metadata(bytes) {
  const found = {};
  let at = 0;
  const number = () => {
    for (let value = 0, unit = 1; ; unit *= 128) {
      value += (bytes[at] & 127) * unit;
      if (bytes[at++] < 128) return value;
    }
  };
  const text = () => {
    number(); // which field
    const size = number();
    return new TextDecoder().decode(bytes.subarray(at, (at += size)));
  };
  while (at < bytes.length) {
    const field = number(), value = number(); // a number, or how many bytes follow
    if (field % 8 === 0) continue;
    const end = at + value;
    if (field === 8 * 14 + 2) found[text()] = text();
    at = end;
  }
  return found;
}

/** Compute the maps of the predicted classes, blended as micranet_helpers.maps.tiles does. */
async function maps({ side, scaling }) {
  const run = (state.run += 1), { height, width } = state.image, { about } = state;
  const image = fitted(state.image, about.channels), whole = Math.max(height, width) <= side;
  const input = image.planes.map((plane) => scaled(plane, scaling));
  const multiple = (length) => Math.ceil(length / 8) * 8;
  if (Math.min(height, width) <= (whole ? 8 : side / 2)) {
    throw new Error(`The picture of ${height} × ${width} px is too small for tiles of ${side} px.`);
  }
  const [tall, wide] = whole ? [multiple(height), multiple(width)] : [side, side];
  const corners = starts(height, tall).flatMap((y) => starts(width, wide).map((x) => [y, x]));
  const weights = new Float32Array(height * width), sums = new Map();
  const best = new Float32Array(about.classes.length).fill(-Infinity);
  state.memory.clear();
  for (const [done, corner] of corners.entries()) {
    postMessage({ progress: done, total: corners.length });
    await new Promise((resolve) => setTimeout(resolve)); // lets a cancel through
    if (run !== state.run) throw new Error("Cancelled.");
    const { logits, maps } = await state.session.run({ image: tile(input, corner, tall, wide) },
      ["logits", "maps"]); // not the evidence, which the page has no use for
    best.forEach((value, k) => (best[k] = Math.max(value, logits.data[k])));
    const shown = [...best.keys()].filter((k) => isPredicted(logits.data[k], k));
    shown.filter((k) => !sums.has(k)).forEach((k) => sums.set(k, emptyMaps(sums.size + 1)));
    blend(corner, tall, wide, weights, shown.map((k) => [k, sums.get(k)]), maps.data);
  }
  for (const map of [...sums.values()].flat()) map.forEach((v, i) => (map[i] = v / weights[i]));
  Object.assign(state, { sums, picture: visible(image) });
  const chances = [...best].map((logit, k) => [k, 1 / (1 + Math.exp(-logit)), logit]);
  chances.sort((a, b) => b[1] - a[1]);
  return { note: image.note ?? "", most: chances[0],
    predicted: chances.filter(([k, , logit]) => isPredicted(logit, k)) };
}

/** Find where tiles begin: steps of three quarters of a tile; the last may reach over the edge. */
export function starts(length, side) {
  const stride = Math.max(Math.floor((side * 3) / 32) * 8, 8), beyond = Math.max(length - side, 0);
  return Array.from({ length: Math.ceil(beyond / stride) + 1 }, (_, i) => i * stride);
}

function isPredicted(logit, k) {
  const { thresholds } = state.about;
  return thresholds ? 1 / (1 + Math.exp(-logit)) >= thresholds[k] : logit > 0;
}

function emptyMaps(classes) {
  const { height, width } = state.image;
  if (32 * height * width * classes > MOST_BYTES) throw new RangeError();
  return LAYERS.map(() => new Float32Array(height * width));
}

function tile(planes, [top, left], tall, wide) {
  const { height, width } = state.image, data = new Float32Array(planes.length * tall * wide);
  const inside = (i, length) => (i < length ? i : 2 * (length - 1) - i); // mirrored beyond
  let at = 0;
  for (const plane of planes) {
    for (let y = 0; y < tall; y++) {
      const row = inside(top + y, height) * width;
      for (let x = 0; x < wide; x++) data[at++] = plane[row + inside(left + x, width)];
    }
  }
  return new state.ort.Tensor("float32", data, [1, planes.length, tall, wide]);
}

function blend([top, left], tall, wide, weights, shown, data) {
  const { height, width } = state.image;
  const ramp = (i, side) => Math.max(1 - Math.abs(i - (side - 1) / 2) / (side / 2), 1e-9);
  for (let y = 0; y < Math.min(tall, height - top); y++) {
    for (let x = 0; x < Math.min(wide, width - left); x++) {
      const at = (top + y) * width + left + x, weight = ramp(y, tall) * ramp(x, wide);
      weights[at] += weight;
      for (const [k, sum] of shown) {
        for (let layer = 0; layer < 8; layer++) {
          sum[layer][at] += weight * data[((k * 8 + layer) * tall + y) * wide + x];
        }
      }
    }
  }
}

/** Compute a step anew only if what it depends on has changed. */
function remembered(name, key, compute) {
  const text = JSON.stringify(key), old = state.memory.get(name);
  if (old?.text === text) return old.value;
  const value = compute();
  state.memory.set(name, { text, value });
  return value;
}

/** Combine, smooth, mark, number and paint what was chosen. */
function draw({ cls, layers, how, sigma, threshold, level: q, area, opacity, colours }) {
  const { height, width } = state.image, all = state.sums.get(cls);
  const combined = remembered("combined", [cls, layers, how], () => combine(all, how, layers));
  const score = remembered("score", [cls, layers, how, sigma],
    () => gaussian(combined, height, width, sigma));
  const found = remembered("found", [cls, layers, how, sigma, threshold, q, area],
    () => numbered(score, height, width, level(score, threshold, q), area));
  const colour = colours.classes[cls % colours.classes.length], step = Math.ceil(width / 96);
  const map = (values, h, w) => painted(levels(values), colours.map, h, w);
  const rows = Math.ceil(height / step), columns = Math.ceil(width / step);
  const small = all.map((each) => map(Float32Array.from({ length: rows * columns }, (_, i) =>
    each[Math.floor(i / columns) * step * width + (i % columns) * step]), rows, columns));
  const top = threshold === "none" ? map(score, height, width).data : null;
  Object.assign(state, { found, score });
  return { picture: overlaid(found.labels, colour, opacity, top), small, count: found.count,
    combined: map(score, height, width), size: height * width,
    area: found.labels.reduce((sum, label) => sum + (label > 0), 0) };
}

function overlaid(labels, colour, opacity, top) {
  const { data, height, width } = state.picture, picture = new ImageData(width, height);
  const edge = edges(labels, width);
  for (let i = 0; i < labels.length; i++) {
    const weight = edge[i] ? 1 : labels[i] || top ? opacity : 0;
    for (let k = 0; k < 3; k++) {
      const above = top ? top[4 * i + k] : colour[k];
      picture.data[4 * i + k] = data[4 * i + k] * (1 - weight) + above * weight;
    }
    picture.data[4 * i + 3] = 255;
  }
  return picture;
}

function painted(values, colours, height, width) {
  const picture = new ImageData(width, height), pixels = new Uint32Array(picture.data.buffer);
  const opaque = colours.map(([red, green, blue]) => red + (green << 8) + (blue << 16) - 2 ** 24);
  values.forEach((value, i) => (pixels[i] = opaque[value]));
  return picture;
}
