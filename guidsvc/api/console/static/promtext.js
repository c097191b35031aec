// @ts-check
/** The text format of Prometheus, and what is computed from two readings of it. */

/** @typedef {{labels: Record<string, string>, value: number}} Sample */
/** @typedef {Map<string, Sample[]>} Metrics */

/** @param {string} text @returns {Metrics} */
export function parseMetrics(text) {
  /** @type {Metrics} */
  const metrics = new Map();
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found || line.startsWith("#")) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, unescaped(value)]));
    const value = found[3] === "+Inf" ? Infinity : found[3] === "-Inf" ? -Infinity : Number(found[3]);
    if (!metrics.has(found[1])) metrics.set(found[1], []);
    /** @type {Sample[]} */ (metrics.get(found[1])).push({ labels, value });
  }
  return metrics;
}

/** @param {string} value */
const unescaped = (value) => value.replace(/\\(.)/g, (_, character) => (character === "n" ? "\n" : character));

/**
 * The sum of the samples of a metric.
 * @param {Metrics} metrics
 * @param {string} name
 * @param {(labels: Record<string, string>) => boolean} [isWanted]
 * @returns {number} NaN if there is none
 */
export function sum(metrics, name, isWanted = () => true) {
  const samples = (metrics.get(name) ?? []).filter(({ labels }) => isWanted(labels));
  return samples.length ? samples.reduce((total, { value }) => total + value, 0) : NaN;
}

/**
 * How much a counter has risen between two readings. A counter that is lower than before began anew.
 * @param {Metrics} before
 * @param {Metrics} after
 * @param {string} name
 * @param {(labels: Record<string, string>) => boolean} [isWanted]
 */
export function increase(before, after, name, isWanted) {
  const [first, last] = [sum(before, name, isWanted), sum(after, name, isWanted)];
  if (Number.isNaN(last)) return NaN;
  return Number.isNaN(first) || last < first ? last : last - first;
}

/**
 * A quantile of what a histogram has seen between two readings, as Prometheus' `histogram_quantile` computes it.
 * @param {number} quantile
 * @param {Metrics} before
 * @param {Metrics} after
 * @param {string} name without `_bucket`
 * @param {(labels: Record<string, string>) => boolean} [isWanted]
 * @returns {number} NaN if it has seen nothing
 */
export function quantileOf(quantile, before, after, name, isWanted = () => true) {
  const samples = (after.get(`${name}_bucket`) ?? []).filter(({ labels }) => isWanted(labels));
  const bounds = [...new Set(samples.map(({ labels }) => labels.le))].map((le) => ({ le, bound: le === "+Inf" ? Infinity : Number(le) }));
  bounds.sort((one, other) => one.bound - other.bound);
  const counts = bounds.map(({ le }) => increase(before, after, `${name}_bucket`, (labels) => labels.le === le && isWanted(labels)));
  const total = counts.at(-1) ?? 0;
  if (!(total > 0)) return NaN;
  const rank = quantile * total;
  const place = counts.findIndex((count) => count >= rank);
  if (place === bounds.length - 1) return bounds.at(-2)?.bound ?? NaN;
  const [lower, below] = place ? [bounds[place - 1].bound, counts[place - 1]] : [0, 0];
  return lower + ((bounds[place].bound - lower) * (rank - below)) / (counts[place] - below);
}
