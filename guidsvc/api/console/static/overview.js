// @ts-check
/** The overview: what the service does now, what needs attention, and how many GUIDs there are. */

import { html, useEffect, useRef, useState } from "./preact.js";
import { load, send } from "./api.js";
import { Problem, useLoaded } from "./components.js";
import { Plot } from "./plots.js";
import { increase, parseMetrics, quantileOf, sum } from "./promtext.js";
import { urlOf } from "./router.js";
import { faults, lastReadiness } from "./service_state.js";
import { may } from "./session.js";
import { duration, grouped, now } from "./values.js";

const EVERY_SECONDS = 2;
const STATS_SECONDS = 10;
const POINTS = 150; // five minutes
const MAX_GAP_SECONDS = 120;

/** @typedef {import("./promtext.js").Metrics} Metrics */

/** @param {string} digit */
const statusClass = (digit) => (/** @type {Record<string, string>} */ { status }) => status.startsWith(digit);
const ofGuid = (/** @type {Record<string, string>} */ { route }) => route === "/guid/{guid}";
const ofOther = (/** @type {Record<string, string>} */ { route }) => route !== "/guid/{guid}";
const level = (/** @type {string} */ name) => (/** @type {Record<string, string>} */ labels) => labels.level === name;
const operation = (/** @type {string} */ name) => (/** @type {Record<string, string>} */ labels) => labels.operation === name;
const rate = (/** @type {string} */ name, /** @type {any} */ isWanted) => (/** @type {Metrics} */ before, /** @type {Metrics} */ after, /** @type {number} */ seconds) =>
  (increase(before, after, name, isWanted) || 0) / seconds;
const quantile = (/** @type {number} */ q, /** @type {string} */ name, /** @type {any} */ isWanted) => (/** @type {Metrics} */ before, /** @type {Metrics} */ after) =>
  quantileOf(q, before, after, name, isWanted);
const gauge = (/** @type {string} */ name) => (/** @type {Metrics} */ _, /** @type {Metrics} */ after) => sum(after, name);

const CHARTS = [
  {
    title: "Requests per second", unit: "", promql: 'sum by (status) (rate(guidsvc_requests_total[5m]))',
    names: ["2xx", "3xx", "4xx", "5xx"], series: ["2", "3", "4", "5"].map((digit) => rate("guidsvc_requests_total", statusClass(digit))),
  },
  {
    title: "Time of a request", unit: "s", promql: 'histogram_quantile(0.99, sum by (le, route) (rate(guidsvc_request_duration_seconds_bucket[5m])))',
    names: ["one GUID, p50", "one GUID, p99", "others, p50", "others, p99"],
    series: [ofGuid, ofOther].flatMap((isWanted) => [0.5, 0.99].map((q) => quantile(q, "guidsvc_request_duration_seconds", isWanted))),
  },
  {
    title: "Reads per second", unit: "", promql: 'sum by (level) (rate(guidsvc_cache_reads_total[5m]))',
    names: ["cached in the process", "from Redis", "from the store"], series: ["l1", "redis", "miss"].map((name) => rate("guidsvc_cache_reads_total", level(name))),
  },
  {
    title: "Time of the store, p99", unit: "s", promql: 'histogram_quantile(0.99, sum by (le, operation) (rate(guidsvc_store_duration_seconds_bucket[5m])))',
    names: ["reads", "writes", "lists"], series: ["get", "swap", "find"].map((name) => quantile(0.99, "guidsvc_store_duration_seconds", operation(name))),
  },
  {
    title: "Requests at once", unit: "", promql: "guidsvc_requests_in_progress",
    names: ["in progress", "waiting", "refused per second"],
    series: [gauge("guidsvc_requests_in_progress"), gauge("guidsvc_requests_waiting"), rate("guidsvc_requests_refused_total", undefined)],
  },
  {
    title: "Lag of the event loop", unit: "s", promql: 'histogram_quantile(0.99, rate(guidsvc_event_loop_lag_seconds_bucket[5m]))',
    names: ["p99"], series: [quantile(0.99, "guidsvc_event_loop_lag_seconds", undefined)],
  },
];

/** The readings of five minutes: their times, and for each chart its series. */
class History {
  constructor() {
    /** @type {number[]} */
    this.times = [];
    this.series = CHARTS.map(({ names }) => names.map(() => /** @type {(number | null)[]} */ ([])));
    /** @type {{at: number, metrics: Metrics} | null} */
    this.last = null;
  }

  /** @param {Metrics} metrics */
  add(metrics) {
    const at = now();
    if (this.last) {
      const { at: before, metrics: old } = this.last;
      this.times = [...this.times, at].slice(-POINTS);
      this.series = CHARTS.map((chart, place) =>
        chart.series.map((compute, index) => {
          const value = compute(old, metrics, at - before);
          return [...this.series[place][index], Number.isNaN(value) ? null : value].slice(-POINTS);
        }),
      );
    }
    this.last = { at, metrics };
  }
}

export function Overview() {
  return html`<${Attention} />${may("monitor") ? html`<${Counts} /><${Plots} />` : html`<p>Figures and plots need a key with the scope <code>monitor</code>.</p>`}`;
}

/** What is wrong now, and what to do about it. */
function Attention() {
  const { data, error } = lastReadiness.use();
  if (error) return html`<${Problem} error=${error} isRetried=${true} />`;
  const found = data ? faults(data) : [];
  if (!found.length) return html`<p>${data ? "Nothing needs attention." : "Loading ..."}</p>`;
  return html`<section class="problem" aria-label="Needs attention"><strong>Needs attention.</strong>
    <ul>${found.map((fault) => html`<li>${fault}</li>`)}</ul>
    <p>The page "Failure modes" of the documentation says what clients see meanwhile, and what to do.</p></section>`;
}

function Counts() {
  const { data, error } = useLoaded((signal) => load("stats", { signal }), [], STATS_SECONDS);
  if (error) return html`<${Problem} error=${error} isRetried=${true} />`;
  if (!data) return null;
  const counts = [
    ["live", data.live, urlOf("guids")],
    ["expired, not yet purged", data.expired, urlOf("guids", { state: "expired" })],
    ["expire within 24 hours", data.expiring.hours.reduce((/** @type {number} */ one, /** @type {number} */ other) => one + other, 0), urlOf("expiring")],
  ];
  return html`<ul class="counts" aria-label="GUIDs">${counts.map(([name, count, url]) => html`<li><a href=${url}><strong>${grouped(Number(count))}</strong> ${name}</a></li>`)}</ul>`;
}

/** The readings so far: they go on when somebody comes back to the overview soon. */
let readings = new History();

function Plots() {
  const history = useRef(readings);
  const [, setRound] = useState(0);
  const { data, error } = useLoaded(async (signal) => parseMetrics(await (await send("metrics", { signal, isQuiet: true })).text()), [], EVERY_SECONDS);
  useEffect(() => {
    if (!data) return;
    if (now() - (history.current.last?.at ?? Infinity) > MAX_GAP_SECONDS) history.current = readings = new History();
    history.current.add(data);
    setRound((round) => round + 1);
  }, [data]);
  const { times, series } = history.current;
  const started = data && sum(data, "process_start_time_seconds");
  const build = data?.get("guidsvc_build_info")?.[0].labels;
  return html`
    <${Problem} error=${error} isRetried=${true} />
    ${build && html`<p class="faint">guidsvc ${build.version}, store ${build.store}, cache ${build.cache}${started ? `, up for ${duration(now() - started)}` : ""}</p>`}
    ${times.length > 0 ? html`<div class="plots">${CHARTS.map((chart, place) => html`<${Plot} key=${chart.title} chart=${chart} times=${times} series=${series[place]} />`)}</div>` : html`<p>The plots begin in ${EVERY_SECONDS} seconds.</p>`}
  `;
}
