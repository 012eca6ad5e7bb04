// Shows the questions that Python puts, and sends what was clicked or typed.
const KEYS = { y: "yes", n: "no", u: "cannot tell" };

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function button(text, act, hint = "") {
  const node = make("button", { type: "button", onclick: act }, text);
  if (hint) {
    node.append(make("kbd", { ariaHidden: "true" }, hint));
    node.setAttribute("aria-keyshortcuts", hint);
  }
  return node;
}

// One picture, with the box that is asked about.
function picture(tile, contrast) {
  const img = make("img", { src: tile.src, alt: tile.alt, draggable: false });
  img.style.filter = `contrast(${contrast})`;
  const box = make("span", { className: "box" });
  box.style.inset = `${100 * tile.inset}%`;
  return make("span", { className: "picture" }, img, box);
}

function render({ model, el }) {
  const view = () => model.get("view");
  const send = (act, value = null) => model.send({ do: act, value });
  let contrast = 1;
  let ends = null; // of an object that is being measured: clicks so far

  const answer = (word) => {
    const { tiles, grid } = view();
    if (!tiles.length) return;
    const chosen = grid ? [...pictures.querySelectorAll("button")] : [];
    const of = (i) => {
      if (!grid || word === KEYS.u) return word;
      return chosen[i].getAttribute("aria-pressed") === "true" ? "yes" : "no";
    };
    send("answer", tiles.map((tile, i) => [tile.box, of(i)]));
  };
  const ask = make("p", { className: "ask" });
  const pictures = make("div", { className: "pictures" });
  const yes = button("yes", () => answer("yes"), "y");
  const no = button("no", () => answer("no"), "n");
  const save = button("save these: marked yes, others no", () => answer("grid"), "s");
  const undo = button("undo", () => send("undo"), "z");
  const unsure = button("cannot tell", () => answer(KEYS.u), "u");
  const zoomIn = button("zoom in", () => send("set", { zoom: 0.5 }), "+");
  const zoomOut = button("zoom out", () => send("set", { zoom: 2 }), "-");
  const grid = button("grid of crops", () => send("set", { grid: !view().grid }));
  const measure = button("measure an object", () => { ends = ends ? null : []; show(); });
  const train = button("Train now", () => send("start"));
  const outlines = button("Train outlines, too", () => send("start", true));
  const classes = make("select", {
    onchange: () => send("set", { cls: classes.selectedIndex }),
  });
  const slider = make("input", {
    type: "range", min: 0.5, max: 4, step: 0.1, value: contrast,
    oninput: () => {
      contrast = slider.value;
      for (const img of pictures.querySelectorAll("img")) img.style.filter = `contrast(${contrast})`;
    },
  });
  const progress = make("p", { role: "status" });
  const message = make("p", { role: "status", className: "message" });
  const results = make("div", { className: "results" });
  const row = (...nodes) => make("div", { className: "row" }, ...nodes);
  const root = make("div", { className: "micranet-labeller", tabIndex: 0 },
    row(make("label", {}, "class ", classes), grid, zoomIn, zoomOut,
      make("label", {}, "contrast ", slider), measure),
    ask, pictures, row(yes, no, save, unsure, undo), progress, row(train, outlines), message, results);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Labeller: y is yes, n is no, u is cannot tell, z is undo");
  root.setAttribute("data-lm-suppress-shortcuts", "true"); // y and z mean other things in JupyterLab

  // The ends of an object, as clicked on the picture; the distance in its own pixels.
  const click = (event, tile) => {
    if (!ends) return;
    const area = event.currentTarget.getBoundingClientRect();
    ends.push([event.clientX, event.clientY]);
    if (ends.length === 2) {
      const [[x, y], [right, bottom]] = ends;
      ends = null;
      send("measure", Math.hypot(right - x, bottom - y) / area.width * tile.px);
    }
    show();
  };

  const draw = (tile) => {
    const shown = picture(tile, contrast);
    if (!view().grid) {
      shown.onclick = (event) => click(event, tile);
      return shown;
    }
    const toggle = make("button", { type: "button" }, shown);
    toggle.setAttribute("aria-pressed", "false");
    toggle.onclick = () => toggle.setAttribute("aria-pressed",
      String(toggle.getAttribute("aria-pressed") !== "true"));
    return toggle;
  };

  let shownTiles = "";
  function show() {
    const now = view();
    const key = JSON.stringify(now.tiles.map((tile) => [tile.box, tile.px, now.grid]));
    if (key !== shownTiles) {
      const inside = pictures.contains(document.activeElement);
      pictures.replaceChildren(...now.tiles.map(draw));
      if (inside) root.focus(); // what had it is gone
      shownTiles = key;
    }
    const options = now.classes.map((name, i) => make("option", { selected: i === now.cls }, name));
    if (classes.options.length !== options.length) classes.replaceChildren(...options);
    classes.selectedIndex = now.cls;
    const name = now.classes[now.cls];
    ask.textContent = !now.tiles.length ? `No question about “${name}” is left.`
      : ends ? `Click on both ends of one object (${ends.length} of 2).`
        : now.grid ? `Mark the crops whose frame shows “${name}”.`
          : `Does the frame show “${name}”? ${now.tiles[0].alt}`;
    for (const node of [yes, no]) node.hidden = now.grid;
    save.hidden = !now.grid;
    for (const node of [yes, no, save, unsure]) node.disabled = !now.tiles.length;
    measure.hidden = now.grid;
    grid.setAttribute("aria-pressed", String(now.grid));
    measure.setAttribute("aria-pressed", String(Boolean(ends)));
    for (const node of [train, outlines]) node.disabled = now.busy;
    if (progress.textContent !== now.progress) progress.textContent = now.progress;
    if (message.textContent !== now.message) message.textContent = now.message;
    results.replaceChildren(...now.results.map(({ src, alt }) => make("figure", {},
      make("img", { src, alt }), make("figcaption", {}, alt))));
  }

  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab") return;
    const named = { z: undo, s: save, y: yes, n: no, u: unsure, "+": zoomIn, "-": zoomOut };
    const wanted = named[event.key];
    const typing = event.target.matches("select, input");
    if (typing || wanted) event.stopPropagation(); // JupyterLab has other uses for them
    if (typing || !wanted || wanted.hidden || wanted.disabled) return;
    event.preventDefault();
    wanted.click();
  });
  model.on("change:view", show);
  el.append(root);
  show();
  return () => model.off("change:view", show);
}

export default { render };
