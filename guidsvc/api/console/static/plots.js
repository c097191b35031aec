// @ts-check
/** Plots of the last five minutes, each with the same figures as a table, and the PromQL that yields them. */

import { html, useEffect, useRef } from "./preact.js";
import { uPlot } from "./uplot.js";
import { CopyButton } from "./components.js";
import { isDark } from "./theme.js";

const HEIGHT = 140;
const COLORS = ["--series-1", "--series-2", "--series-3", "--series-4"];
const DASHES = [undefined, [6, 3], [2, 3], [10, 3, 2, 3]]; // told apart without color, too

/** @typedef {{title: string, unit: string, promql: string, names: string[]}} Chart */

/** A figure with its unit, in three digits at most. @param {number | null} value @param {string} unit */
export function figure(value, unit) {
  if (value === null || Number.isNaN(value)) return "-";
  if (unit === "s") return value >= 1 ? `${value.toPrecision(3)} s` : value >= 0.001 ? `${(value * 1000).toPrecision(3)} ms` : `${(value * 1e6).toFixed(0)} µs`;
  const text = value >= 1000 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(3)));
  return unit ? `${text} ${unit}` : text;
}

/**
 * @param {{chart: Chart, times: number[], series: (number | null)[][]}} props
 */
export function Plot({ chart, times, series }) {
  const place = useRef(null);
  const plot = useRef(/** @type {any} */ (null));
  const dark = isDark.use();
  useEffect(() => {
    const element = /** @type {any} */ (place.current);
    const drawn = new uPlot(optionsOf(chart, element), [times, ...series], element);
    plot.current = drawn;
    const observer = new ResizeObserver(() => drawn.setSize({ width: widthOf(element), height: HEIGHT }));
    observer.observe(element);
    return () => (observer.disconnect(), drawn.destroy());
  }, [dark]);
  useEffect(() => plot.current?.setData([times, ...series]), [times]);
  return html`<section class="plot" aria-label=${chart.title}>
    <h2>${chart.title}</h2>
    <div ref=${place} class="canvas" aria-hidden="true"></div>
    <table><tbody>
      ${chart.names.map((name, index) => html`<tr><th scope="row"><span class=${`swatch series-${index + 1}`} aria-hidden="true"></span>${name}</th><td>${figure(series[index].at(-1) ?? null, chart.unit)}</td></tr>`)}
    </tbody></table>
    <${CopyButton} text=${chart.promql} label="Copy PromQL" />
  </section>`;
}

/** The time of day. @param {number} seconds */
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");

/** @param {HTMLElement} element */
const widthOf = (element) => Math.max(160, element.clientWidth);

/** @param {Chart} chart @param {HTMLElement} element */
function optionsOf(chart, element) {
  const style = getComputedStyle(element);
  const color = (/** @type {string} */ name) => resolved(element, style.getPropertyValue(name));
  const axis = { stroke: color("--faint"), grid: { stroke: color("--panel"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  return {
    width: widthOf(element),
    height: HEIGHT,
    legend: { show: false },
    cursor: { sync: { key: "guidsvc" } },
    scales: { y: { range: (/** @type {any} */ _, /** @type {number} */ __, /** @type {number} */ max) => [0, max > 0 ? max * 1.1 : 1] } },
    axes: [{ ...axis, size: 24, space: 80, values: (/** @type {any} */ _, /** @type {number[]} */ times) => times.map(clock) }, { ...axis, size: 62, values: (/** @type {any} */ _, /** @type {number[]} */ values) => values.map((value) => figure(value, chart.unit)) }],
    series: [{}, ...chart.names.map((name, index) => ({ label: name, stroke: color(COLORS[index]), width: 1.5, dash: DASHES[index], points: { show: false } }))],
  };
}

/** A color as a canvas takes it: `light-dark()` is resolved. @param {HTMLElement} element @param {string} color */
function resolved(element, color) {
  const probe = document.createElement("span");
  probe.style.color = color;
  element.append(probe);
  const text = getComputedStyle(probe).color;
  probe.remove();
  return text;
}
