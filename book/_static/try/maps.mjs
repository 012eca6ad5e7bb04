// Combine the maps of a class, smooth the sum, find the threshold: the numbers of
// micranet_helpers.maps.combination and .thresholds. A map is a Float32Array, row by row.

export const LAYERS = ["1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b"];
const BINS = 256;
const { fround } = Math; // torch computes histograms in float32

/** Combine maps (8 of one length) by "pca", "mean", "sum" or "prod". */
export function combine(maps, how, layers) {
  const chosen = layers.map((layer) => maps[LAYERS.indexOf(layer)]);
  if (how === "pca") return pca(chosen, maps[7]);
  const total = Float64Array.from(chosen[0]), parts = how === "mean" ? chosen.length : 1;
  for (const map of chosen.slice(1)) {
    for (let i = 0; i < total.length; i++) {
      total[i] = how === "prod" ? total[i] * map[i] : total[i] + map[i];
    }
  }
  return new Float32Array(total.map((value) => value / parts));
}

/** Project on the first principal component; its sign is that of the reference, 4b. */
function pca(maps, reference) {
  const size = reference.length, points = maps.map(centred);
  const covariance = points.map(() => []);
  points.forEach((a, j) => points.slice(0, j + 1).forEach((b, k) =>
    (covariance[j][k] = covariance[k][j] = dot(a, b) / size)));
  const loadings = firstEigenvector(covariance);
  const scores = new Float32Array(size);
  points.forEach((map, k) => {
    const loading = loadings[k];
    for (let i = 0; i < size; i++) scores[i] += loading * map[i];
  });
  const agreement = dot(scores, centred(reference));
  const tiny = 1e-6 * Math.sqrt(dot(scores, scores) * dot(reference, reference));
  const largest = loadings.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
  const sign = Math.sign(Math.abs(agreement) > tiny ? agreement : largest);
  return scores.map((value) => value * sign);
}

function centred(map) {
  const first = map[0];
  let sum = 0;
  for (let i = 0; i < map.length; i++) sum += map[i] - first;
  const mean = sum / map.length;
  return map.map((value) => value - first - mean);
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** Find the eigenvector of the largest eigenvalue of a small symmetric matrix (Jacobi). */
function firstEigenvector(matrix) {
  const n = matrix.length, a = matrix.map((row) => [...row]);
  const v = a.map((_, i) => a.map((_, j) => +(i === j)));
  for (let sweep = 0; sweep < 30; sweep++) {
    for (let p = 0; p < n; p++) {
      for (let q = p + 1; q < n; q++) {
        if (a[p][q] === 0) continue;
        const angle = 0.5 * Math.atan2(2 * a[p][q], a[q][q] - a[p][p]);
        const c = Math.cos(angle), s = Math.sin(angle);
        const turn = (row) => {
          [row[p], row[q]] = [c * row[p] - s * row[q], s * row[p] + c * row[q]];
        };
        a.forEach(turn);
        for (let k = 0; k < n; k++) {
          [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]];
        }
        v.forEach(turn);
      }
    }
  }
  const best = a.reduce((top, row, k) => (row[k] > a[top][top] ? k : top), 0);
  return v.map((row) => row[best]);
}

/** Smooth by a Gaussian, cut at 4 sigma; beyond the border the pixels at it go on. */
export function gaussian(map, height, width, sigma) {
  if (sigma === 0) return map;
  const reach = Math.floor(4 * sigma + 0.5);
  const weights = Float64Array.from({ length: 2 * reach + 1 },
    (_, i) => Math.exp(-0.5 * ((i - reach) / sigma) ** 2));
  const total = weights.reduce((a, b) => a + b);
  weights.forEach((weight, i) => (weights[i] = weight / total));
  // Along the columns, then turned; twice, so the map lies as before.
  return alongColumns(alongColumns(map, height, width, weights), width, height, weights);
}

function alongColumns(map, height, width, weights) {
  const reach = (weights.length - 1) / 2, turned = new Float32Array(map.length);
  const sum = new Float64Array(width);
  for (let y = 0; y < height; y++) {
    sum.fill(0);
    for (let k = 0; k < weights.length; k++) {
      const from = Math.min(Math.max(y + k - reach, 0), height - 1) * width, weight = weights[k];
      for (let x = 0; x < width; x++) sum[x] += weight * map[from + x];
    }
    for (let x = 0; x < width; x++) turned[x * height + y] = sum[x];
  }
  return turned;
}

/** Find the value above which pixels are marked: "otsu", "triangle", "percentile" or "none". */
export function level(map, threshold, q) {
  if (threshold === "none") return Infinity;
  if (threshold === "percentile") {
    return Float32Array.from(map).sort()[Math.floor((q / 100) * (map.length - 1))];
  }
  const { counts, centre } = histogram(map);
  return centre(threshold === "otsu" ? otsu(counts, centre) : triangle(counts));
}

export function range(map) {
  let low = Infinity, high = -Infinity;
  for (let i = 0; i < map.length; i++) {
    if (map[i] < low) low = map[i];
    if (map[i] > high) high = map[i];
  }
  return [low, high];
}

function histogram(map) {
  const [low, high] = range(map), counts = new Float64Array(BINS);
  const width = fround(fround(high - low) / BINS);
  for (const value of map) {
    counts[Math.min(Math.floor(fround(fround(value - low) / (width || 1))), BINS - 1)]++;
  }
  return { counts, centre: (bin) => fround(low + fround(width * (bin + 0.5))) };
}

function otsu(counts, centre) {
  const pixels = counts.reduce((a, b) => a + b);
  const sum = counts.reduce((total, count, bin) => total + count * centre(bin), 0);
  let best = 0, most = -1, below = 0, weighted = 0;
  for (let bin = 0; bin < BINS - 1; bin++) {
    below += counts[bin];
    weighted += counts[bin] * centre(bin);
    const apart = weighted / below - (sum - weighted) / (pixels - below);
    const between = below * (pixels - below) * apart ** 2;
    if (between > most) [best, most] = [bin, between];
  }
  return best;
}

function triangle(counts) {
  let low = counts.findIndex((count) => count > 0);
  let high = counts.findLastIndex((count) => count > 0);
  let peak = counts.indexOf(Math.max(...counts));
  const flipped = peak - low < high - peak; // the long tail lies on the left
  if (flipped) {
    counts = counts.toReversed();
    [low, peak] = [BINS - 1 - high, BINS - 1 - peak];
  }
  let best = low, most = -Infinity;
  for (let bin = low; bin < peak; bin++) {
    const distance = counts[peak] * (bin - low) - (peak - low) * counts[bin];
    if (distance > most) [best, most] = [bin, distance];
  }
  return flipped ? BINS - 1 - best : best;
}
