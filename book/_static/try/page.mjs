// The page "Try it": its controls, its pictures, and what it asks of the worker.
import { plan, startWorker } from "./asking.mjs";

const here = (file) => new URL(file, import.meta.url).href;
const find = (id) => document.getElementById(`try-${id}`);
const form = find("form").elements;
const all = await (await fetch(here("networks.json"))).json();
const ask = startWorker(({ progress, total }) =>
  Object.assign(find("progress"), { value: progress, max: total }));
let about = null, opened = "", told = "", sampled = false, drawing = false, changed = false;
let turn = 0, running = 0;

function say(text, wrong = false) {
  find("message").textContent = text;
  find("message").classList.toggle("wrong", wrong);
}

/** Do what a reader asks for; an error is shown, unless the reader has asked for more since. What
    was asked for before that is done late, and says nothing. */
async function attempt(doing, work, late = false) {
  const mine = late ? 0 : (turn += 1);
  if (!late) say(doing);
  await work().catch((error) => mine === turn && say(error.message, true));
}

const load = (how) => attempt("Loading the runtime …", async () => {
  find("load").disabled = true;
  const { files } = all.runtimes[how.kind], { graphs } = all;
  await ask("runtime", { folder: here("runtime/"), files, plan: how, graphs })
    .finally(() => (find("load").disabled = false));
  find("load").hidden = true;
  for (const part of document.querySelectorAll("#try fieldset")) part.disabled = false;
  say("The runtime is here. Choose a network and a picture.");
  if (all.networks.length) await takeNetwork();
});

/** Take a network: one of the book's, or an ONNX file of the reader's. */
async function takeNetwork(bytes) {
  const chosen = all.networks.find(({ id }) => id === form.network.value);
  const args = bytes ? { bytes } : { url: here(chosen.file), about: chosen };
  try {
    about = { ...all.defaults, ...(await ask("network", args)) };
  } finally {
    nameNetwork();
  }
  for (const name of Object.keys(all.defaults)) if (form[name]) form[name].value = about[name];
  for (const tick of form.layer) tick.checked = about.layers.includes(tick.value);
  find("about").textContent = about.about ?? "";
  const textContent = about.sample?.name ?? "none", disabled = !about.sample;
  Object.assign(find("sample"), { textContent, disabled });
  if (sampled && about.sample) await takeSample(); // one that is being read, too
  else if (opened) await explain();
  else say("Choose a picture, drop one here, or paste one.");
}

/** Name the network that is loaded, or none: so one that failed can be chosen again. */
function nameNetwork() {
  const id = about?.id ?? "";
  form.network.value = id;
  history.replaceState(null, "", `#${id && `network=${id}`}`);
}

const takePicture = (source, name) => attempt(`Reading ${name} …`, async () => {
  opened = "";
  sampled = "url" in source;
  const { height, width } = await ask("picture", source);
  opened = `${name}, ${height} × ${width} px`;
  await explain();
});
const takeSample = () => takePicture({ url: here(about.sample.file) }, about.sample.name);

async function takeFile(file) {
  const bytes = await file?.arrayBuffer().catch(() =>
    say("The file could not be read: it may be too large or have moved.", true));
  if (bytes && !/\.onnx$/i.test(file.name)) await takePicture({ bytes }, file.name);
  else if (bytes) await attempt(`Reading ${file.name} …`, () => takeNetwork(bytes));
}

/** Run the network on the picture, with progress; what follows is drawn. */
async function explain() {
  const picture = opened, mine = turn;
  running += 1;
  find("results").hidden = true;
  find("running").hidden = false;
  say(`Computing the maps of ${opened} …`);
  const { predicted, most, note } = await ask("maps", { side: +form.side.value,
    scaling: form.scaling.value }).finally(() => (find("running").hidden = (running -= 1) === 0));
  if (picture !== opened) return; // another is being read
  const named = ([k, chance]) => `${about.classes[k]} (probability ${chance.toFixed(2)})`;
  if (!predicted.length) {
    throw new Error(`No class is predicted in ${opened}. The most probable: ${named(most)}.`);
  }
  const cls = form.cls.value;
  form.cls.replaceChildren(...predicted.map((each) => new Option(named(each), each[0])));
  if (predicted.some(([k]) => `${k}` === cls)) form.cls.value = cls;
  find("results").hidden = false;
  told = `${note}${opened}.`;
  await draw(mine !== turn);
}

/** Draw what is chosen; what is chosen meanwhile, afterwards. */
async function draw(late = false) {
  changed = true;
  if (drawing) return;
  drawing = true;
  while (changed && !find("results").hidden) {
    changed = false;
    form.level.disabled = form.threshold.value !== "percentile";
    await attempt(told, async () => {
      const chosen = new FormData(find("form")), layers = [...form.layer].map((tick) => tick.checked);
      if (!layers.includes(true)) throw new Error("Choose at least one layer.");
      const colour = all.colours[chosen.get("cls") % all.colours.length];
      show(await ask("draw", { ...Object.fromEntries(chosen), layers, colour }));
    }, late);
    late = false;
  }
  drawing = false;
}

function show({ pictures, count, area, size }) {
  const small = find("layers").querySelectorAll("canvas");
  [find("picture"), find("combined"), ...small].forEach((canvas, k) => {
    Object.assign(canvas, { width: pictures[k].width, height: pictures[k].height });
    canvas.getContext("2d").putImageData(pictures[k], 0, 0);
  });
  const share = ((100 * area) / size).toFixed(1), pixel = +form.pixel_size_um.value;
  const inUm = pixel ? `, ${(area * pixel ** 2).toFixed(1)} µm²` : "";
  const text = form.threshold.value === "none" ? "no threshold"
    : `${count} object${count === 1 ? "" : "s"}, ${area} px (${share} %)${inUm}`;
  find("summary").textContent = text;
  find("picture").setAttribute("aria-label", `The picture with its objects: ${text}`);
  for (const output of document.querySelectorAll("#try output")) {
    output.value = `${output.previousElementSibling.value} ${output.dataset.unit}`;
  }
}

const save = (kind) => attempt("Saving …", async () => {
  const args = { kind, cls: form.cls.value, pixel: +form.pixel_size_um.value };
  const href = URL.createObjectURL(await ask("save", args));
  Object.assign(document.createElement("a"), { href, download: `objects.${kind}` }).click();
  say(`Saved objects.${kind}.`);
});

function connect(how) {
  form.network.append(...all.networks.map(({ name, id }) => new Option(name, id)));
  const named = () => all.networks.some(({ id }) => location.hash === `#network=${id}`)
    && (form.network.value = location.hash.slice(9));
  named();
  addEventListener("hashchange", () =>
    named() && form.network.matches(":enabled") && attempt("Loading the network …", () => takeNetwork()));
  const take = { network: () => (location.hash = `network=${form.network.value}`),
    own: () => takeFile(form.own.files[0]), file: () => takeFile(form.file.files[0]),
    side: () => opened && attempt("", explain), scaling: () => opened && attempt("", explain) };
  for (const [name, work] of Object.entries(take)) form[name].addEventListener("change", work);
  find("results").addEventListener("input", () => draw());
  find("load").addEventListener("click", () => load(how));
  find("cancel").addEventListener("click", () => ask("cancel"));
  find("sample").addEventListener("click", takeSample);
  find("saves").addEventListener("click", ({ target }) => target.value && save(target.value));
  addEventListener("paste", ({ clipboardData }) => takeFile(clipboardData.files[0]));
  for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
  addEventListener("drop", ({ dataTransfer }) => takeFile(dataTransfer.files[0]));
}

const how = await plan(), runtime = all.runtimes?.[how.kind];
const lacking = typeof WebAssembly === "undefined"
  ? "This browser has no WebAssembly, or it is switched off: try another one." : runtime ? ""
    : "Built without a network, these pages lack the runtime: build them where npm can be reached.";
connect(how);
find("load").textContent = `Load the runtime, ${runtime?.mb} MB`;
find("load").hidden = lacking !== "";
say(lacking || "Nothing is loaded before you ask for it, and your picture stays on this machine.",
  lacking !== "");
