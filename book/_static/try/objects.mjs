// Number the objects of a mask, measure and outline them: micranet_helpers.maps.detect and
// explore.saving.

/** Number the parts above a level that do not touch (4 neighbours); small ones are left out. */
export function numbered(score, height, width, level, area) {
  const labels = new Int32Array(score.length);
  let count = 0;
  for (let start = 0; start < score.length; start++) {
    if (labels[start] || !(score[start] > level)) continue;
    const part = [start];
    labels[start] = -1; // seen
    for (let next = 0; next < part.length; next++) {
      const at = part[next], x = at % width;
      const around = [at - width, at + width, x > 0 ? at - 1 : -1, x < width - 1 ? at + 1 : -1];
      for (const other of around) {
        if (!(score[other] > level) || labels[other]) continue; // none: beyond the image
        labels[other] = -1;
        part.push(other);
      }
    }
    if (part.length >= area) {
      count += 1;
      for (const at of part) labels[at] = count;
    }
  }
  return { labels: labels.map((label) => Math.max(label, 0)), count };
}

/** List the objects, one a row: the columns of micranet_helpers.maps.detect.table. */
export function table({ labels, count }, score, width, pixelSize) {
  const sums = Array.from({ length: count }, () => [0, 0, 0, 0]);
  labels.forEach((label, at) => {
    if (!label) return;
    const sum = sums[label - 1];
    sum[0] += 1;
    sum[1] += Math.floor(at / width);
    sum[2] += at % width;
    sum[3] += score[at];
  });
  return sums.map(([area, rows, columns, total], i) => {
    const row = { label: i + 1, area_px: area, row: rows / area, column: columns / area,
      score: total / area };
    if (!pixelSize) return row;
    return { ...row, area_um2: area * pixelSize ** 2, row_um: row.row * pixelSize,
      column_um: row.column * pixelSize };
  });
}

/** Mark the pixels of objects that have one of four neighbours outside. */
export function edges(labels, width) {
  const marked = new Uint8Array(labels.length);
  for (let at = 0; at < labels.length; at++) {
    const right = at % width < width - 1 && labels[at + 1] !== labels[at];
    const below = at + width < labels.length && labels[at + width] !== labels[at];
    if (right) marked[at] = marked[at + 1] = 1;
    if (below) marked[at] = marked[at + width] = 1;
  }
  return marked.map((edge, at) => edge && labels[at] > 0);
}

// Sides of a square of four pixels, in half pixels from its first: top, right, bottom, left.
const SIDES = { T: [0, 1], R: [1, 2], B: [2, 1], L: [1, 0] };
// Where an outline crosses the square, the object on its right, by which of the four pixels (top
// left 8, top right 4, bottom right 2, bottom left 1) belong to it.
const CROSSINGS = ["", "LB", "BR", "LR", "RT", "RT LB", "BT", "LT", "TL", "TB", "TL BR", "TR", "RL",
  "RB", "BL", ""];

/** Outline each object by polygons [[x, y], …] in ImageJ's coordinates; holes are polygons, too. */
export function outlines({ labels, count }, height, width) {
  const next = Array.from({ length: count + 1 }, () => new Map());
  const at = (y, x) => (y >= 0 && x >= 0 && y < height && x < width ? labels[y * width + x] : 0);
  const span = 2 * width + 4;
  const point = (y, x, side) => (2 * y + 2 + SIDES[side][0]) * span + 2 * x + 2 + SIDES[side][1];
  for (let y = -1; y < height; y++) {
    for (let x = -1; x < width; x++) {
      const four = [at(y, x), at(y, x + 1), at(y + 1, x + 1), at(y + 1, x)];
      for (const label of new Set(four)) {
        if (!label) continue;
        const kind = four.reduce((bits, other) => 2 * bits + (other === label), 0);
        for (const [from, to] of CROSSINGS[kind].split(" ").filter(Boolean)) {
          next[label].set(point(y, x, from), point(y, x, to));
        }
      }
    }
  }
  const place = (key) => [(key % span) / 2 - 0.5, Math.floor(key / span) / 2 - 0.5];
  return next.slice(1).map((steps) => loops(steps).map((loop) => loop.map(place)));
}

function loops(steps) {
  const found = [];
  while (steps.size) {
    const loop = [];
    let key = steps.keys().next().value;
    while (steps.has(key)) {
      loop.push(key);
      const to = steps.get(key);
      steps.delete(key);
      key = to;
    }
    found.push(loop);
  }
  return found;
}
