// @ts-check
/** Work on one or many GUIDs: renew, set the expiry, revoke, delete. What will happen is asked of the service first. */

import { html, useEffect, useLayoutEffect, useState } from "./preact.js";
import { load } from "./api.js";
import { announce, Buttons, Dialog, Field, onSubmit, Problem, useAction } from "./components.js";
import { idempotencyKey } from "./new_guid.js";
import { may } from "./session.js";
import { exportSelected } from "./transfer.js";
import { counted, EXPIRY_HINT, exact, parseDuration, parseExpiry } from "./values.js";

const TYPED_ABOVE = 20;
const SHOWN_FAILURES = 10;

/**
 * The actions. `operation` makes an operation of a batch. Only a GUID that still has the version that the list showed is
 * revoked or deleted, so that nobody's change is lost unseen: these actions need the version.
 *
 * @typedef {{title: string, done: string, scope: string, needsVersion?: boolean, isDangerous?: boolean, says?: string, failure?: (result: any) => string, field?: string, hint?: string,
 *   fault?: (text: string) => string, operation: (guid: string, version: string, text: string) => object}} Action
 * @type {Record<string, Action>}
 */
export const ACTIONS = {
  renew: {
    title: "Renew", done: "renewed", scope: "write", field: "Valid for at least", hint: "A duration from now, such as 30d or 12h. A renewal never shortens",
    says: "A GUID that has expired or was revoked becomes valid again.",
    failure: ({ renewal }) => (renewal && !renewal.renewed ? `valid for longer already, until ${exact(renewal.expire)}` : ""),
    fault: (text) => (parseDuration(text) ? "" : "This is not a duration, such as 30d or 12h."),
    operation: (guid, _, text) => ({ op: "renew", guid, ttl: String(parseDuration(text)), revive: true }),
  },
  expiry: {
    title: "Set expiry", done: "changed", scope: "write", needsVersion: true, field: "Expiry", hint: EXPIRY_HINT,
    fault: (text) => (Number.isNaN(parseExpiry(text)) ? "This is not a time." : parseExpiry(text) * 1000 < Date.now() ? "This is in the past. To end a GUID, revoke it." : ""),
    operation: (guid, version, text) => ({ op: "put", guid, expire: String(parseExpiry(text)), ...unchanged(version) }),
  },
  revoke: {
    title: "Revoke", done: "revoked", scope: "write", needsVersion: true, isDangerous: true, says: "Reads get 410 from now on. A new expiry makes a revoked GUID valid again, until it is purged.",
    operation: (guid, version) => ({ op: "put", guid, expire: "0", ...unchanged(version) }),
  },
  delete: {
    title: "Delete", done: "deleted", scope: "delete", needsVersion: true, isDangerous: true, says: "This cannot be undone.",
    operation: (guid, version) => ({ op: "delete", guid, ...unchanged(version) }),
  },
};

/** The precondition that a GUID still has a version. Only a key that may not read has none. @param {string} version */
function unchanged(version) {
  return version ? { if_match: `"${version}"` } : {};
}

/** @typedef {{guid: string, version: string}} Selected a record as the list showed it, or the part of it that is known */

/** The buttons for the selected GUIDs. @param {{selected: Map<string, Selected>, onClear: () => void, onDone: () => void, children?: any}} props */
export function BulkBar({ selected, onClear, onDone, children }) {
  const [action, setAction] = useState("");
  const count = selected.size ? `${counted(selected.size, "GUID")} selected` : "";
  // The bar moves the row that has the focus.
  useLayoutEffect(() => document.activeElement?.scrollIntoView({ block: "nearest" }), [!count]);
  const said = html`<span class="hidden" role="status">${count}</span>`;
  if (!selected.size && !action) return said;
  return html`${said}<div class="bulk" role="group" aria-label="Selected GUIDs">
    <span aria-hidden="true">${count}</span>
    <${ActionButtons} onChosen=${setAction} />
    ${may("read") && html`<button type="button" onClick=${() => exportSelected([...selected.values()])}>Export the selection</button>`}
    ${children}
    <button type="button" onClick=${onClear}>Clear the selection</button>
    ${action && html`<${Bulk} name=${action} selected=${selected} onClose=${() => setAction("")} onDone=${() => (setAction(""), onDone())} />`}
  </div>`;
}

/** @param {{onChosen: (name: string) => void, isOffered?: (name: string) => boolean}} props */
export function ActionButtons({ onChosen, isOffered = () => true }) {
  return Object.entries(ACTIONS)
    .filter(([name, { scope }]) => may(scope) && isOffered(name))
    .map(([name, { title, isDangerous }]) => html`<button type="button" class=${isDangerous ? "danger" : ""} onClick=${() => onChosen(name)}>${title}${isDangerous ? " ..." : ""}</button>`);
}

/**
 * The dialog of an action: what to set, if there is anything to set, then what will happen, then what did not.
 * @param {{name: string, selected: Map<string, Selected>, onClose: () => void, onDone: () => void}} props
 */
export function Bulk({ name, selected, onClose, onDone }) {
  const action = ACTIONS[name];
  const [text, setText] = useState("");
  const [typed, setTyped] = useState("");
  const [key] = useState(idempotencyKey);
  const [preview, setPreview] = useState(/** @type {any[] | null} */ (null));
  const [outcome, setOutcome] = useState(/** @type {any[] | null} */ (null));
  const { isBusy, error, run } = useAction();

  const operations = () => [...selected.values()].map(({ guid, version }) => action.operation(guid, version, text));
  const send = async (/** @type {object} */ options) => {
    const { results } = await load("guid:batch", { method: "POST", json: { operations: operations() }, ...options });
    return results;
  };
  const check = () => run(async () => setPreview(await send({ query: { validate_only: "true" } })));
  useEffect(() => {
    if (!action.field) void check();
  }, []);
  const execute = () =>
    run(async () => {
      const results = await send({ headers: { ...(action.failure ? {} : { Prefer: "return=minimal" }), "Idempotency-Key": key } });
      const failed = failures(action, results, selected);
      announce(`${results.length - failed.length} ${action.done}${failed.length ? `, ${failed.length} not` : ""}.`);
      if (failed.length) setOutcome(results);
      else onDone();
    });

  if (outcome) {
    return html`<${Dialog} title=${`${action.title}: ${outcome.length - failures(action, outcome, selected).length} ${action.done}`} onClose=${onDone}>
      <${Failures} failed=${failures(action, outcome, selected)} title="These were not" />
      <div class="buttons"><button type="button" class="primary" onClick=${onDone}>Close</button></div>
    <//>`;
  }
  const fault = text && action.fault ? action.fault(text) : "";
  if (!preview) {
    return html`<${Dialog} title=${`${action.title} ${counted(selected.size, "GUID")}`} onClose=${onClose}>
      <form onSubmit=${onSubmit(check)}>
        ${action.field && html`<${Field} label=${action.field} name="bulk-value" value=${text} onInput=${setText} fault=${fault} hint=${action.hint} required />`}
        ${action.says && html`<p>${action.says}</p>`}
        ${!action.field && isBusy && html`<p role="status">Checking ...</p>`}
        <${Problem} error=${error} />
        <${Buttons} action=${action.field ? "Check first" : "Check again"} isBusy=${isBusy} onCancel=${onClose} />
      </form>
    <//>`;
  }
  const failed = failures(action, preview, selected);
  const count = preview.length - failed.length;
  const mustType = action.isDangerous && count > TYPED_ABOVE;
  const value = name === "expiry" ? ` to ${exact(parseExpiry(text))}` : name === "renew" ? ` for ${text}` : "";
  const title = count ? `${action.title} ${counted(count, "GUID")}${value}?` : `No GUID can be ${action.done}${value}`;
  return html`<${Dialog} title=${title} onClose=${onClose} canEscape=${!isBusy}>
    <form onSubmit=${onSubmit(execute)}>
      ${count > 0 && html`<p id="bulk-says">${counted(count, "GUID")} will be ${action.done}. ${action.says ?? ""}</p>`}
      <${Failures} failed=${failed} title="These will not" />
      ${mustType && html`<${Field} label=${`Type ${count} to confirm`} name="bulk-count" value=${typed} onInput=${setTyped} inputmode="numeric" aria-describedby="bulk-says" />`}
      <${Problem} error=${error} />
      <${Buttons} action=${action.title} isBusy=${isBusy} isOff=${count === 0 || (mustType && typed.trim() !== String(count))} isDangerous=${action.isDangerous} onCancel=${isBusy ? null : onClose} />
    </form>
  <//>`;
}

/** Why an operation did nothing, or nothing if it did. @param {Action} action @param {any} result */
function reasonOf(action, result) {
  if (result.status < 400) return action.failure?.(result) ?? "";
  return result.problem?.code === "precondition-failed" ? "changed meanwhile; load the list again" : (result.problem?.title ?? `status ${result.status}`);
}

/**
 * The operations that did nothing, with their GUIDs.
 * @param {Action} action
 * @param {any[]} results
 * @param {Map<string, Selected>} selected
 * @returns {{guid: string, reason: string}[]}
 */
function failures(action, results, selected) {
  const guids = [...selected.keys()];
  return results.map((result, place) => ({ guid: guids[place], reason: reasonOf(action, result) })).filter(({ reason }) => reason);
}

/** @param {{failed: {guid: string, reason: string}[], title: string}} props */
function Failures({ failed, title }) {
  if (!failed.length) return null;
  return html`<p>${title}:</p>
    <ul>
      ${failed.slice(0, SHOWN_FAILURES).map((each) => html`<li><code>${each.guid}</code>: ${each.reason}</li>`)}
      ${failed.length > SHOWN_FAILURES && html`<li>and ${failed.length - SHOWN_FAILURES} more</li>`}
    </ul>`;
}
