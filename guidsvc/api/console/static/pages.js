// @ts-check
/** The pages of a list: the places where the pages before this one end, which records this page has, and the buttons that turn. */

import { html, useState } from "./preact.js";
import { counted, grouped } from "./values.js";

/** Where a page begins. @typedef {{cursor: string, start: number}} Place `start` counts the records before it */
/** @typedef {{places: Place[], cursor: string | undefined, start: number, turnTo: (places: Place[]) => void}} Pages `places` are those of all pages after the first, up to this one */

/** The pages of a list, which begin anew when its filter changes. @param {string} filter @returns {Pages} */
export function usePages(filter) {
  const [turned, setTurned] = useState(/** @type {{filter: string, places: Place[]}} */ ({ filter, places: [] }));
  const places = turned.filter === filter ? turned.places : [];
  const { cursor, start = 0 } = places.at(-1) ?? {};
  return { places, cursor, start, turnTo: (next) => setTurned({ filter, places: next }) };
}

/**
 * Which records a page has: "51–60 of 60 GUIDs". A page can have fewer than it may, and others can create records
 * meanwhile: the total is left out where it cannot be right.
 * @param {string} thing @param {number} start @param {number} rows @param {boolean} hasNext @param {number | null} [total] when the first page was loaded
 */
export function rangeOf(thing, start, rows, hasNext, total = null) {
  if (!rows && start) return "";
  if (!start && !hasNext) return counted(rows, thing);
  const end = start + rows;
  const range = `${grouped(start + 1)}–${grouped(end)}`;
  if (!hasNext) return `${range} of ${counted(end, thing)}`;
  return total !== null && total > end ? `${range} of ${counted(total, thing)}` : `${thing}s ${range}`;
}

/**
 * The foot of a list: which of its records are shown, and the buttons that turn its pages.
 * @param {{pages: Pages, list: {data: any, of: unknown[]}, thing: string, total?: number | null, onTurned?: () => void, children?: any}} props `list` depends on the cursor last
 */
export function PageFoot({ pages: { places, cursor, start, turnTo }, list: { data, of }, thing, total, onTurned, children }) {
  const isLoaded = data !== null && of.at(-1) === cursor; // else it is the page before
  const turn = (/** @type {Place[]} */ to) => isLoaded && (turnTo(to), onTurned?.());
  const { items = [], next = null } = data ?? {};
  return html`<div class="pages">
    <span role="status">${isLoaded && rangeOf(thing, start, items.length, next !== null, total)}</span>
    ${places.length > 0 && html`<button type="button" onClick=${() => turn(places.slice(0, -1))}>Previous page</button>`}
    ${next && html`<button type="button" onClick=${() => turn([...places, { cursor: next, start: start + items.length }])}>Next page</button>`}
    ${children}
  </div>`;
}
