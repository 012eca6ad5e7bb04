// The page "Try it": its controls, its pictures, and what it asks of the worker.

import { LAYERS } from "./maps.mjs";

const here = (file) => new URL(file, import.meta.url).href;
const find = (id) => document.getElementById(`try-${id}`);
const form = find("form").elements;
const all = await (await fetch(here("networks.json"))).json();
const waiting = new Map(), ticks = new Map(), thumbs = new Map();
let about = null, opened = "", sampled = false, cls = null, drawing = false, changed = false;
let turn = 0;

// A worker made from a blob is bound by the content policy of the page.
const start = new Blob([`import ${JSON.stringify(here("worker.mjs"))};`],
  { type: "text/javascript" });
const worker = new Worker(URL.createObjectURL(start), { type: "module" });

worker.onmessage = ({ data: { id, result, error, progress, total } }) => {
  if (total) return Object.assign(find("progress"), { value: progress, max: total });
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  return error ? reject(new Error(error)) : resolve(result);
};
worker.onerror = () => say("The scripts of this page could not be loaded: load it anew.", true);

function ask(step, args = {}, transfer = []) {
  const id = crypto.getRandomValues(new Uint32Array(1))[0];
  worker.postMessage({ id, step, ...args }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function say(text, wrong = false) {
  find("message").textContent = text;
  find("message").classList.toggle("wrong", wrong);
}

/** Do what a reader asks for; an error is shown, unless the reader has asked for more since. */
async function attempt(doing, work) {
  const mine = (turn += 1);
  say(doing);
  try {
    await work();
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

const load = () => attempt("Loading the runtime …", async () => {
  find("load").disabled = true;
  try {
    await ask("runtime", { folder: here("runtime/") });
  } catch (error) {
    find("load").disabled = false;
    throw error;
  }
  find("load").hidden = true;
  for (const part of document.querySelectorAll("#try fieldset")) part.disabled = false;
  say("The runtime is here. Choose a network and a picture.");
  if (all.networks.length) await takeNetwork({});
});

/** Take a network: one of the book's, or an ONNX file of the reader's. */
async function takeNetwork({ bytes }) {
  const chosen = all.networks[form.network.value];
  const args = bytes ? { bytes } : { url: here(chosen.file), about: chosen };
  about = { side: 256, scaling: "fixed", layers: LAYERS.slice(0, 7), how: "pca", sigma: 1,
    threshold: "otsu", area: 1, pixel_size_um: null, ...(await ask("network", args)) };
  for (const name of ["side", "scaling", "how", "sigma", "threshold", "area"]) {
    form[name].value = about[name];
  }
  form.pixel.value = about.pixel_size_um ?? "";
  for (const [layer, tick] of ticks) tick.checked = about.layers.includes(layer);
  find("sample").textContent = about.sample?.name ?? "";
  find("sample").disabled = !about.sample;
  if (opened && sampled && about.sample) await takeSample();
  else if (opened) await explain();
  else say("Choose a picture, drop one here, or paste one.");
}

const takePicture = (source, name) => attempt(`Reading ${name} …`, async () => {
  opened = "";
  sampled = "url" in source;
  const { height, width } = await ask("picture", source);
  opened = `${name}, ${height} × ${width} px`;
  await explain();
});

const takeSample = () => takePicture({ url: here(about.sample.file) }, about.sample.name);

/** Run the network on the picture, with progress; what follows is drawn. */
async function explain() {
  const mine = turn;
  find("results").hidden = true;
  find("running").hidden = false;
  say(`Computing the maps of ${opened} …`);
  try {
    offer(await ask("maps", { side: +form.side.value, scaling: form.scaling.value }));
  } finally {
    if (mine === turn) find("running").hidden = true;
  }
  await draw();
}

function offer({ predicted, most, note }) {
  const named = ([k, chance]) => `${about.classes[k]} (probability ${chance.toFixed(2)})`;
  if (!predicted.length) {
    throw new Error(`No class is predicted in ${opened}. The most probable: ${named(most)}.`);
  }
  form.cls.replaceChildren(...predicted.map((each) => new Option(named(each), each[0])));
  if (predicted.some(([k]) => k === cls)) form.cls.value = cls;
  find("results").hidden = false;
  say(`${note}${opened}.`);
}

/** Draw what is chosen; what is chosen meanwhile, afterwards. */
async function draw() {
  changed = true;
  if (drawing) return;
  drawing = true;
  while (changed && !find("results").hidden) {
    changed = false;
    form.level.disabled = form.threshold.value !== "percentile";
    await attempt(find("message").textContent, async () => show(await ask("draw", choice())));
  }
  drawing = false;
}

function choice() {
  cls = +form.cls.value;
  const layers = [...ticks].filter(([, tick]) => tick.checked).map(([layer]) => layer);
  if (!layers.length) throw new Error("Choose at least one layer.");
  const numbers = ["sigma", "level", "area", "opacity"].map((name) => [name, +form[name].value]);
  return { cls, layers, how: form.how.value, threshold: form.threshold.value,
    colours: all.colours, ...Object.fromEntries(numbers) };
}

function show({ picture, combined, small, count, area, size }) {
  const put = (canvas, image) => {
    Object.assign(canvas, { width: image.width, height: image.height });
    canvas.getContext("2d").putImageData(image, 0, 0);
  };
  put(find("picture"), picture);
  put(find("combined"), combined);
  small.forEach((image, k) => put(thumbs.get(LAYERS[k]), image));
  const share = ((100 * area) / size).toFixed(1), pixel = +form.pixel.value;
  const inUm = pixel ? `, ${(area * pixel ** 2).toFixed(1)} µm²` : "";
  const text = form.threshold.value === "none" ? "no threshold"
    : `${count} object${count === 1 ? "" : "s"}, ${area} px (${share} %)${inUm}`;
  find("summary").textContent = text;
  find("picture").setAttribute("aria-label", `The picture with its objects: ${text}`);
  for (const [name, unit] of [["sigma", "px"], ["level", "%"], ["opacity", ""]]) {
    form[name].nextElementSibling.textContent = `${form[name].value} ${unit}`;
  }
}

const save = (kind) => attempt("Saving …", async () => {
  const blob = await ask("save", { kind, cls, pixelSize: +form.pixel.value || null });
  const link = Object.assign(document.createElement("a"),
    { href: URL.createObjectURL(blob), download: `objects.${kind}` });
  link.click();
  say(`Saved objects.${kind}.`);
});

const takeFile = async (file) => {
  if (!file) return;
  const bytes = await file.arrayBuffer().catch(() => null);
  if (!bytes) say("The file could not be read: it may be too large or have moved.", true);
  else if (/\.onnx$/i.test(file.name)) {
    await attempt(`Reading ${file.name} …`, () => takeNetwork({ bytes }));
  } else await takePicture({ bytes }, file.name);
};

function connect() {
  all.networks.forEach(({ name }, k) => form.network.append(new Option(name, k)));
  for (const layer of LAYERS) {
    const [canvas, label] = [document.createElement("canvas"), document.createElement("label")];
    const tick = Object.assign(document.createElement("input"), { type: "checkbox" });
    canvas.setAttribute("aria-hidden", "true");
    label.append(canvas, tick, ` ${layer}`);
    find("layers").append(label);
    ticks.set(layer, tick);
    thumbs.set(layer, canvas);
  }
  const take = { network: () => attempt("Loading the network …", () => takeNetwork({})),
    own: () => takeFile(form.own.files[0]), file: () => takeFile(form.file.files[0]) };
  for (const [name, work] of Object.entries(take)) form[name].addEventListener("change", work);
  find("results").addEventListener("input", draw);
  for (const name of ["side", "scaling"]) {
    form[name].addEventListener("change", () => opened && attempt("", explain));
  }
  find("form").addEventListener("submit", (event) => event.preventDefault());
  find("load").addEventListener("click", load);
  find("cancel").addEventListener("click", () => ask("cancel"));
  find("sample").addEventListener("click", takeSample);
  find("saves").addEventListener("click", ({ target }) => target.value && save(target.value));
  document.addEventListener("paste", ({ clipboardData }) => takeFile(clipboardData.files[0]));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    takeFile(event.dataTransfer.files[0]);
  });
}

connect();
if (all.runtime_mb) {
  find("load").textContent = `Load the runtime, ${all.runtime_mb} MB`;
  find("load").hidden = false;
  say("Nothing is loaded before you ask for it, and your picture stays on this machine.");
} else {
  say("These pages were built without a network, so the runtime is missing: build them again "
    + "where registry.npmjs.org can be reached.", true);
}
