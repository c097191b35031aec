// @ts-check
/** Keys that do what else takes several steps. Single letters work outside fields only, and can be switched off. */

import { html, useEffect, useState } from "./preact.js";
import { Dialog } from "./components.js";
import { go } from "./router.js";

const STORED = "guidsvc.shortcuts";
const PANELS = { o: "", g: "guids", e: "expiring", l: "live", k: "keys", a: "about" };
const GO_MS = 1500;

const HELP = [
  ["/", "find a GUID"],
  ["n", "new GUID, or new key"],
  ["j, k", "next row, previous row"],
  ["x", "select the row"],
  ["b", "go to the buttons for the selected rows"],
  ["Enter", "open the row"],
  ["e", "edit the GUID"],
  ["g, then o g e l k a", "go to Overview, GUIDs, Expiring, Live, Keys, About"],
  ["?", "this help"],
  ["Esc", "close a dialog or the menu"],
];

export const areShortcutsOn = () => localStorage.getItem(STORED) !== "off";

/** Whether a key press is meant for a field. @param {KeyboardEvent} event */
function isForField(event) {
  const target = /** @type {HTMLElement} */ (event.target);
  return event.ctrlKey || event.metaKey || event.altKey || target.closest("input:not([type=checkbox]), select, textarea, dialog") !== null;
}

/** @param {() => void} showHelp */
export function useShortcuts(showHelp) {
  useEffect(() => {
    let goneAt = -Infinity;
    const press = (/** @type {KeyboardEvent} */ event) => {
      if (!areShortcutsOn() || isForField(event)) return;
      const isGoing = event.timeStamp - goneAt < GO_MS;
      goneAt = event.key === "g" && !isGoing ? event.timeStamp : -Infinity;
      if (isGoing && Object.hasOwn(PANELS, event.key)) go(/** @type {Record<string, string>} */ (PANELS)[event.key]);
      else if (event.key === "/") document.getElementById("find")?.focus();
      else if (event.key === "?") showHelp();
      else if (event.key === "n" || event.key === "e") click(event.key);
      else if (event.key === "j" || event.key === "k") moveRow(event.key === "j" ? 1 : -1);
      else if (event.key === "b") /** @type {any} */ (document.querySelector(".bulk button"))?.focus();
      else if (event.key === "x") /** @type {any} */ (focusedRow()?.querySelector("input[type=checkbox]"))?.click();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}

/** Press the button of the panel that has this shortcut. @param {string} letter */
function click(letter) {
  /** @type {any} */ (document.querySelector(`main button[data-shortcut="${letter}"]:not(:disabled)`))?.click();
}

const focusedRow = () => document.activeElement?.closest("tbody tr") ?? null;

/** @param {number} step */
function moveRow(step) {
  const rows = [...document.querySelectorAll("main tbody tr:has(a)")];
  const current = rows.indexOf(/** @type {any} */ (focusedRow()));
  const next = rows[current < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, current + step))];
  /** @type {any} */ (next?.querySelector("a"))?.focus();
}

/** A choice whether single letters are shortcuts (WCAG 2.1.4). */
export function ShortcutChoice() {
  const [isOn, setOn] = useState(areShortcutsOn);
  const change = (/** @type {any} */ event) => {
    localStorage.setItem(STORED, event.currentTarget.checked ? "on" : "off");
    setOn(event.currentTarget.checked);
  };
  return html`<label class="check"><input type="checkbox" checked=${isOn} onChange=${change} /> Single letters are shortcuts</label>`;
}

export function ShortcutList() {
  return html`<dl class="keys">${HELP.map(([key, text]) => html`<div><dt><kbd>${key}</kbd></dt><dd>${text}</dd></div>`)}</dl>`;
}

/** @param {{onClose: () => void}} props */
export function ShortcutHelp({ onClose }) {
  return html`<${Dialog} title="Keyboard" onClose=${onClose}>
    <${ShortcutList} />
    <${ShortcutChoice} />
    <div class="buttons"><button type="button" class="primary" onClick=${onClose}>Close</button></div>
  <//>`;
}
