// Do the work away from the page, so that it never freezes: read, run the network on tiles, draw,
// save. The arithmetic is in graphs, which book/_ext/micranet_book/steps.py writes.

import { fetched, startWorker } from "./asking.mjs";
import { numbered } from "./objects.mjs";
import { decode, fitted } from "./pixels.mjs";
import { save } from "./saving.mjs";
const state = { run: 0, graphs: new Map(), memory: new Map(), others: [] };

onmessage = async ({ data: { id, step, ...args } }) => {
  try {
    postMessage({ id, result: await steps[step](args) });
  } catch (error) {
    const memory = error instanceof RangeError || /memory|alloc/i.test(error.message ?? error);
    postMessage({ id, error: memory
      ? "The memory of the browser is not enough: cut a part of the picture."
      : error.message ?? `The network could not be run (${error}).` });
  }
};

const steps = {
  async runtime({ folder, files: [script, wasm], plan, graphs }) {
    const paths = [wasm, ...graphs.map((name) => `../steps/${name}.onnx`)];
    const [wasmBinary, ...small] = await Promise.all(paths.map((path) => fetched(folder + path)));
    Object.assign(state, { folder, plan, files: [script, wasm] });
    try {
      state.ort = await import(folder + script);
      Object.assign(state.ort.env.wasm, { wasmBinary, numThreads: plan.threads });
      for (const name of graphs) state.graphs.set(name, await open(small.shift()));
    } catch {
      throw new Error("The runtime does not start: load this page anew, or use another browser.");
    }
  },
  async network({ url, bytes, about }) {
    const graph = new Uint8Array(bytes ?? (await fetched(url)));
    const kinds = [...new Set([state.plan.kind, "wasm"])];
    const session = await open(graph, kinds).catch(() => null);
    if (!session?.inputNames.includes("least")) throw new Error(session
      ? 'This network gives no maps to browsers: use to_onnx(path, model, maps="predicted").'
      : "This is no ONNX file that onnxruntime can read: export the network anew.");
    const { num_input_images: planes, num_classes: count } = note(graph, "settings");
    const classes = note(graph, "classes") ?? [...Array(count).keys()];
    const known = { planes, classes, ...note(graph, "usage"), ...about };
    known.least = Float32Array.from(classes, (_, k) => known.least?.[k] ?? 0);
    const old = state.session, run = state.run + 1; // maps of the old one are not wanted any more
    Object.assign(state, { session, graph, about: known, run });
    await old?.release();
    const side = known.side ?? 256, data = new Float32Array(planes * side ** 2);
    const least = known.least.map((_, k) => (k ? Infinity : -Infinity)); // one class warms up
    await tile({ data, tall: side, wide: side, least });
    return known;
  },
  async picture({ url, bytes }) {
    const mine = (state.opening = {}), data = bytes ?? (await fetched(url));
    const image = await decode(new Uint8Array(data), state.folder), { height, width } = image;
    if (mine !== state.opening) throw new Error("Cancelled."); // for a later one
    Object.assign(state, { image, run: state.run + 1 }); // maps of the old one are of no use
    return { height, width };
  },
  ...{ maps, tile, draw }, cancel: () => void (state.run += 1),
  save: ({ kind, ...args }) => save[kind]({ ...args, ...state.found, ...state.image }, state.folder),
};

const open = (graph, executionProviders = ["wasm"]) =>
  state.ort.InferenceSession.create(graph, { executionProviders });
const tensor = (data, ...sides) => new state.ort.Tensor(data, sides.length ? sides : [data.length]);
const flag = (value) => tensor([value]);
const int64 = (...values) =>
  tensor(BigInt64Array.from(values, (value) => BigInt(Math.floor(value) || 0)));

/** Run one of the small graphs and return its outputs. */
const compute = async (name, inputs) => Object.values(await state.graphs.get(name).run(inputs));

/** Read a note, JSON text, from the metadata of an ONNX file: a name, a length, the text. */
function note(graph, key) {
  const field = `\n${String.fromCharCode(key.length)}${key}\x12`, { length } = field;
  let at = new TextDecoder("latin1").decode(graph).lastIndexOf(field) + length, size = 0, unit = 1;
  if (at < length) return null;
  do size += (graph[at] & 127) * unit, unit *= 128; while (graph[at++] > 127);
  return JSON.parse(new TextDecoder().decode(graph.subarray(at, at + size)));
}

/** Scale the picture as the network's images were, and mirror it until its tiles fit. */
async function scaled({ planes, height, width }, how, below, right) {
  const data = new Float32Array(planes.length * height * width), { about } = state;
  planes.forEach((plane, k) => data.set(plane, k * height * width));
  const [bytes, words] = [Uint8Array, Uint16Array].map((kind) => planes[0] instanceof kind);
  if (how === "fixed" && words && about.dtype !== "uint16") {
    throw new Error("The picture has 16 bits, whose full range says nothing: choose the scaling "
      + "minmax or standard, whichever the network was trained with.");
  }
  const image = tensor(data, planes.length, height, width), most = bytes ? 255 : words ? 65535 : 1;
  [state.picture] = await compute("visible", { image, bytes: flag(bytes) });
  const [offset, factor] = (how === "range" ? [about.offset, about.factor] : [[0], [1 / most]])
    .map((numbers) => tensor(Float32Array.from(numbers)));
  const pads = int64(0, 0, 0, 0, below, right);
  return (await compute(how, { image, offset, factor, pads }))[0];
}

/** Compute the maps of the predicted classes, blended as micranet_helpers.maps.tiles does. */
async function maps({ side, scaling }) {
  const run = (state.run += 1), { about } = state, image = fitted(state.image, about.planes);
  const { height, width } = image, whole = Math.max(height, width) <= side;
  if (Math.min(height, width) <= (whole ? 8 : side / 2)) {
    throw new Error(`The picture of ${height} × ${width} px is too small for tiles of ${side} px.`);
  }
  // Tiles begin every three quarters of their side; the last may reach over the edge.
  const starts = (length, size, stride = Math.max(Math.floor((size * 3) / 32) * 8, 8)) =>
    Array.from({ length: Math.ceil((length - size) / stride) + 1 }, (_, i) => i * stride);
  const [tall, wide] = whole ? [height, width].map((n) => Math.ceil(n / 8) * 8) : [side, side];
  const corners = starts(height, tall).flatMap((y) => starts(width, wide).map((x) => [y, x]));
  const total = corners.length, [down, across] = corners.at(-1);
  const seen = await scaled(image, scaling, down + tall - height, across + wide - width);
  const sums = new Map(), weights = new Float32Array(height * width);
  const best = new Float32Array(about.classes.length).fill(-Infinity);
  state.memory.clear();
  let done = 0;
  const lane = async (explain) => {
    for (;;) {
      await new Promise((resolve) => setTimeout(resolve)); // lets a cancel through, and answers
      if (run !== state.run) throw new Error("Cancelled.");
      const corner = corners.shift();
      if (!corner) return;
      const data = cut(seen, corner, tall, wide), found = await explain({ data, tall, wide });
      found.logits.forEach((value, k) => (best[k] = Math.max(best[k], value)));
      for (const k of found.shown.filter((k) => !sums.has(k))) {
        if (32 * weights.length * (sums.size + 1) > 1.5e9) throw new RangeError(); // bytes
        sums.set(k, new Float32Array(8 * weights.length));
      }
      blend(corner, tall, wide, width, weights, found.shown.map((k) => sums.get(k)), found.maps);
      postMessage({ progress: (done += 1), total });
    }
  };
  postMessage({ progress: 0, total });
  const others = Array.from({ length: Math.min(state.plan.workers, total) - 1 }, (_, i) => i);
  await Promise.all([...others.map((i) => other(i).then(lane)), lane(tile)]);
  const area = weights.length;
  for (const sum of sums.values()) sum.forEach((value, i) => (sum[i] = value / weights[i % area]));
  state.maps = sums;
  const chances = [...best].map((logit, k) => [k, 1 / (1 + Math.exp(-logit))]);
  chances.sort((a, b) => b[1] - a[1]);
  return { note: image.note ?? "", most: chances[0],
    predicted: chances.filter(([k]) => sums.has(k)) };
}

/** Give another worker the network, and return how it is asked for a tile. */
async function other(number) {
  const { folder, files, plan, graph, about } = state;
  const one = (state.others[number] ??= { ask: startWorker() });
  await (one.ready ??= one.ask("runtime", { folder, files, plan, graphs: [] }));
  if (one.graph !== graph) await one.ask("network", { bytes: graph, about });
  one.graph = graph;
  return (args) => one.ask("tile", args);
}

/** Explain the classes that the network predicts in a tile. */
async function tile({ data, tall, wide, least = state.about.least }) {
  const { planes } = state.about, size = 8 * tall * wide;
  const { logits, shown, maps } = await state.session.run(
    { image: tensor(data, 1, planes, tall, wide), least: tensor(least) });
  return { logits: logits.data, shown: Array.from(shown.data, Number),
    maps: Array.from(shown.data, (_, i) => maps.data.subarray(i * size, (i + 1) * size)) };
}

function cut({ data, dims: [channels, height, width] }, [top, left], tall, wide) {
  const part = new Float32Array(channels * tall * wide);
  for (let row = 0; row < channels * tall; row++) {
    const from = (Math.floor(row / tall) * height + top + (row % tall)) * width + left;
    part.set(data.subarray(from, from + wide), row * wide);
  }
  return part;
}

function blend([top, left], tall, wide, width, weights, sums, maps) {
  const area = weights.length, height = area / width;
  const ramp = (i, side) => Math.max(1 - Math.abs(i - (side - 1) / 2) / (side / 2), 1e-9);
  for (let y = 0; y < Math.min(tall, height - top); y++) {
    for (let x = 0; x < Math.min(wide, width - left); x++) {
      const at = (top + y) * width + left + x, weight = ramp(y, tall) * ramp(x, wide);
      weights[at] += weight;
      for (let i = 0; i < 8 * sums.length; i++) {
        const layer = i % 8, k = (i - layer) / 8;
        sums[k][layer * area + at] += weight * maps[k][(layer * tall + y) * wide + x];
      }
    }
  }
}

/** Compute anew only what depends on a changed choice. */
function remembered(name, choices, work) {
  const key = JSON.stringify(choices), old = state.memory.get(name);
  if (old?.key !== key) state.memory.set(name, { key, value: work() });
  return state.memory.get(name).value;
}

/** Find the objects by what is chosen, and paint all pictures. */
async function draw({ cls, layers, how, sigma, threshold, level, area, opacity, colour }) {
  const { height, width } = state.image, maps = tensor(state.maps.get(+cls), 8, height, width);
  const heat = (values, step) => compute("heat", { maps: values, step: int64(step) });
  const [small] = await remembered("small", [cls], () => heat(maps, Math.ceil(width / 96)));
  const chosen = tensor(layers), first = [cls, layers, how];
  const [combined] = await remembered("combined", first, () => compute(how, { maps, chosen }));
  const [score] = await remembered("score", [first, sigma],
    () => compute("smoothed", { score: combined, sigma: tensor(Float32Array.of(sigma)) }));
  const [hot] = await remembered("hot", [first, sigma],
    () => heat(score.reshape([1, height, width]), 1));
  const levels = await remembered("levels", [first, sigma, threshold], async () =>
    threshold === "percentile" ? score.data.slice().sort()
      : (await compute(threshold, { score }))[0].data);
  const above = levels.at(((level ?? 0) / 100) * (levels.length - 1)); // of one: that one
  const found = remembered("found", [above, area, first, sigma],
    () => numbered(score.data, width, above, area));
  const all = threshold === "none"; // then the score lies over the whole picture
  const [picture] = await compute("overlaid", { picture: state.picture, everywhere: flag(all),
    above: all ? hot.reshape([height, width, 4]) : tensor(Uint8Array.of(...colour, 255), 1, 1, 4),
    labels: tensor(found.labels, height, width), opacity: tensor(Float32Array.of(opacity)) });
  state.found = { ...found, score: score.data };
  return { pictures: [picture, hot, small].flatMap(painted), count: found.areas.length,
    area: found.areas.reduce((a, b) => a + b, 0), size: height * width };
}

function painted({ data, dims }) {
  const [height, width] = dims.slice(-3), size = 4 * height * width;
  return Array.from({ length: data.length / size }, (_, k) =>
    new ImageData(new Uint8ClampedArray(data.slice(k * size, (k + 1) * size)), width, height));
}
