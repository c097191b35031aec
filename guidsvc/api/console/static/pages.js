// @ts-check
/** The pages of a list: the cursor of each page that was turned to, and the buttons that turn. */

import { html, useState } from "./preact.js";

/** @typedef {{cursors: string[], turnTo: (cursors: string[]) => void}} Pages the cursors of all pages after the first, up to this one */

/** The pages of a list, which begin anew when its filter changes. @param {string} filter @returns {Pages} */
export function usePages(filter) {
  const [turned, setTurned] = useState(/** @type {{filter: string, cursors: string[]}} */ ({ filter, cursors: [] }));
  return { cursors: turned.filter === filter ? turned.cursors : [], turnTo: (cursors) => setTurned({ filter, cursors }) };
}

/** @param {{pages: Pages, next: string | null | undefined, onTurned?: () => void}} props */
export function PageButtons({ pages: { cursors, turnTo }, next, onTurned }) {
  const turn = (/** @type {string[]} */ to) => (turnTo(to), onTurned?.());
  return html`${cursors.length > 0 && html`<button type="button" onClick=${() => turn(cursors.slice(0, -1))}>Previous page</button>`}
    ${next && html`<button type="button" onClick=${() => turn([...cursors, next])}>Next page</button>`}`;
}
