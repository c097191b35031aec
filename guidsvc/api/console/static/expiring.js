// @ts-check
/** What expires soon: how many in each hour and day, and which, soonest first. */

import { html, useState } from "./preact.js";
import { load, loadExactly } from "./api.js";
import { BulkBar } from "./bulk.js";
import { Problem, useLoaded } from "./components.js";
import { Table } from "./guids.js";
import { PageFoot, usePages } from "./pages.js";
import { may } from "./session.js";
import { counted, duration, grouped, now } from "./values.js";

const PAGE_SIZE = 50;
const SPANS = { hours: { title: "The next 24 hours", seconds: 3600, name: "hour" }, days: { title: "The next 30 days", seconds: 86400, name: "day" } };

/** A bar that is chosen, and the time that it stands for. @typedef {{name: string, place: number, from: number, to: number} | null} Window */

export function Expiring() {
  const stats = useLoaded((signal) => (may("monitor") ? load("stats", { signal, isQuiet: true }) : Promise.resolve(null)), [], 10);
  const [window, setWindow] = useState(/** @type {Window} */ (null));
  const pages = usePages(JSON.stringify(window));
  const { cursor } = pages;
  const [selected, setSelected] = useState(/** @type {Map<string, import("./guids.js").Listed>} */ (new Map()));
  const list = useLoaded((signal) => loadExactly("guid", { signal, query: queryOf(window, cursor) }), [window, cursor]);
  const choose = (/** @type {Window} */ chosen) => (setWindow(chosen), pages.turnTo([]), setSelected(new Map()));
  const done = () => (setSelected(new Map()), list.reload());
  return html`
    <${Problem} error=${stats.error} isRetried=${true} />
    ${stats.data && html`<div class="bars">${Object.keys(SPANS).map((name) => html`<${Bars} name=${name} counts=${stats.data.expiring[name]} at=${Number(stats.data.at) / 1000} chosen=${window} onChoose=${choose} />`)}</div>`}
    <h2>Soonest first${window ? `: expiring between ${duration(window.from - now())} and ${duration(window.to - now())} from now` : ""}</h2>
    ${window && html`<button type="button" onClick=${() => choose(null)}>Show all</button>`}
    <${Problem} error=${list.error} isRetried=${true} />
    <${BulkBar} selected=${selected} onClear=${() => setSelected(new Map())} onDone=${done} />
    <${Table} rows=${list.data?.items ?? []} hasFailed=${list.error !== null} selected=${selected} onSelect=${setSelected} isLoaded=${list.data !== null} isLater=${pages.start > 0} />
    <${PageFoot} pages=${pages} list=${list} thing="GUID" />
  `;
}

/** @param {Window} window @param {string | undefined} cursor */
function queryOf(window, cursor) {
  const bounds = window ? { expires_after: String(Math.floor(window.from) - 1), expires_before: String(Math.ceil(window.to)) } : {};
  return { ...bounds, sort: "expire", state: "live", view: "full", limit: PAGE_SIZE, cursor };
}

/** The height of a bar in percent: what is not zero can be seen. @param {number} count @param {number} most */
const heightOf = (count, most) => (count ? Math.max(2, Math.round((100 * count) / most)) : 0);

/**
 * Bars, each a button that selects what it counts.
 * @param {{name: string, counts: number[], at: number, chosen: Window, onChoose: (window: Window) => void}} props
 */
function Bars({ name, counts, at, chosen, onChoose }) {
  const span = /** @type {Record<string, {title: string, seconds: number, name: string}>} */ (SPANS)[name];
  const most = Math.max(1, ...counts);
  return html`<section aria-label=${span.title}>
    <h2>${span.title} <span class="faint">${counted(counts.reduce((one, other) => one + other, 0), "GUID")}, at most ${grouped(Math.max(...counts))} in one ${span.name}</span></h2>
    <p class="faint axis"><span>${grouped(Math.max(...counts))}</span></p>
    <div class="scale"><div class="chart" role="group" aria-label=${`Expiring by ${span.name}`}>
      ${counts.map((count, place) => {
        const from = at + place * span.seconds;
        const isChosen = chosen?.name === name && chosen.place === place;
        const text = `${grouped(count)} between ${place} and ${place + 1} ${span.name}s from now`;
        return html`<button type="button" class="bar" title=${text} aria-label=${text} aria-pressed=${isChosen} onClick=${() => onChoose(isChosen ? null : { name, place, from, to: from + span.seconds })}>
          <svg viewBox="0 0 10 100" preserveAspectRatio="none" aria-hidden="true"><rect x="0.5" y=${100 - heightOf(count, most)} width="9" height=${heightOf(count, most)} /></svg>
        </button>`;
      })}
    </div>
    <p class="faint axis"><span>now</span><span>in ${counts.length} ${span.name}s</span></p></div>
  </section>`;
}
