// Number the objects of a mask, measure, outline: micranet_helpers.maps.detect, explore.saving.

/** Number the parts above a level that do not touch (4 neighbours); small ones are left out. */
export function numbered(score, width, level, area) {
  const labels = new Int32Array(score.length), areas = [];
  score.forEach((value, at) => (labels[at] = -(value > level)));
  for (let start = 0; start < labels.length; start++) {
    if (labels[start] !== -1) continue; // outside, or numbered
    const part = [start], number = areas.length + 1;
    labels[start] = number;
    for (const at of part) { // which grows
      const left = at % width > 0 ? at - 1 : -1, right = (at + 1) % width > 0 ? at + 1 : -1;
      for (const next of [at - width, left, right, at + width]) {
        if (labels[next] === -1) labels[part[part.push(next) - 1]] = number;
      }
    }
    if (part.length >= area) areas.push(part.length);
    else for (const at of part) labels[at] = 0;
  }
  return { labels, areas };
}

/** List the objects as micranet_helpers.maps.detect.table does: names of columns, then rows. */
export function table({ labels, areas, score, width, pixel }) {
  const sums = areas.map(() => [0, 0, 0]);
  labels.forEach((label, at) => label && [Math.floor(at / width), at % width, score[at]]
    .forEach((value, k) => (sums[label - 1][k] += value / areas[label - 1])));
  const names = ["label", "area_px", "row", "column", "score", "area_um2", "row_um", "column_um"];
  const rows = areas.map((area, i) => [i + 1, area, ...sums[i], area * pixel ** 2,
    sums[i][0] * pixel, sums[i][1] * pixel]);
  return [names, ...rows].map((row) => (pixel ? row : row.slice(0, 5)));
}

/** Outline each object by polygons [[x, y], …] in ImageJ's coordinates; holes are polygons, too. */
export async function outlines({ labels, areas, height, width }, folder) {
  for (const name of ["d3-array", "d3-contour"]) await import(`${folder}${name}.min.js`);
  const boxes = areas.map(() => [width, height, 0, 0]), { min, max } = Math;
  labels.forEach((label, at) => {
    const [left, top, right] = boxes[label - 1] ?? [], x = at % width, y = Math.floor(at / width);
    if (label) boxes[label - 1] = [min(left, x), min(top, y), max(right, x + 1), y + 1];
  });
  return boxes.map(([left, top, right, bottom], i) => {
    const [wide, tall] = [right - left, bottom - top];
    const inside = Float32Array.from({ length: wide * tall }, (_, at) =>
      +(labels[(top + Math.floor(at / wide)) * width + left + (at % wide)] === i + 1));
    const { coordinates } = globalThis.d3.contours().size([wide, tall]).smooth(false)
      .contour(inside, 0.5);
    return coordinates.flat().map((ring) => ring.slice(1).map(([x, y]) => [x + left, y + top]));
  });
}
