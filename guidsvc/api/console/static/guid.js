// @ts-check
/** One GUID: its members, its life, what happened to it, and what can be done with it. */

import { html, useEffect, useState } from "./preact.js";
import { load, loadExactly, RequestError } from "./api.js";
import { ActionButtons, ACTIONS, Bulk } from "./bulk.js";
import { Problem, Time, useLoaded } from "./components.js";
import { hasDraft } from "./drafts.js";
import { draftName, Editor } from "./editor.js";
import { Expired, findExpired } from "./expired.js";
import { LifeLine, Members } from "./members.js";
import { go, urlOf } from "./router.js";
import { may } from "./session.js";
import { happenedAt, isRevoked, jsonText, parseGuid } from "./values.js";

const EVERY_SECONDS = 10;
const MAX_TIMER_MS = 2 ** 31 - 1000;

/** Read a record with all its members. Its numbers keep all their digits. @param {string} guid @param {AbortSignal} [signal] */
export const readRecord = (guid, signal) => loadExactly(`guid/${guid}`, { signal, query: { view: "full" } });

/** @param {{guid: string}} props */
export function Guid({ guid }) {
  const taken = parseGuid(guid);
  if (taken !== guid) {
    return html`<p>${taken ? html`A GUID is written as <a href=${urlOf(`guids/${taken}`)}>${taken}</a>.` : "This is not a GUID: it must have 32 hexadecimal characters."}</p>`;
  }
  return may("read") ? html`<${Readable} guid=${guid} />` : html`<p>Your key may not read GUIDs. What you do here applies to this GUID as it is then, also if somebody else has just changed it.</p><${Actions} guid=${guid} version="" onDone=${() => {}} />`;
}

/** @param {{guid: string}} props */
function Readable({ guid }) {
  const { data, error, reload } = useLoaded((signal) => readRecord(guid, signal), [guid], EVERY_SECONDS);
  const [edited, setEdited] = useState(/** @type {any} */ (null));
  const record = isGone(error) ? null : data;
  const expired = error?.status === 410 ? error.problem : null;
  const lookup = useLoaded((signal) => (expired ? findExpired(guid, expired.expired_at, signal) : Promise.resolve(null)), [guid, expired?.expired_at]);
  const found = expired ? (lookup.error ? false : lookup.data) : null;
  useReloadAt(record?.expire, reload);
  const edit = () => readRecord(guid).then(setEdited, reload); // what somebody else has changed since is in it
  const leave = () => (setEdited(null), reload());
  const done = (/** @type {string} */ name) => (name === "delete" ? go("guids") : (reload(), lookup.reload()));
  const isLaidAside = record && may("write") && !edited && hasDraft(draftName(guid));
  return html`
    ${expired ? html`<${Expired} guid=${guid} problem=${expired} record=${found} />` : error?.status === 404 ? html`<${Unknown} />` : html`<${Problem} error=${error} isRetried=${true} />`}
    ${!record && !error && html`<p>Loading ...</p>`}
    ${record && html`<${Members} record=${record} /><${LifeLine} record=${record} />`}
    ${(record || expired) &&
    html`<div class="tools">
      ${record && may("write") && html`<button type="button" class="primary" data-shortcut="e" onClick=${edit}>Edit</button>`}
      <${Actions} guid=${guid} version=${(record || found)?.version ?? ""} isRevoked=${Boolean(found && isRevoked(found))} onDone=${done} />
    </div>`}
    ${isLaidAside && html`<p>You changed this GUID and did not save it. <button type="button" onClick=${edit}>Go on editing</button></p>`}
    ${record && html`<details><summary>As JSON</summary><pre tabindex="0"><code>${jsonText(record)}</code></pre></details>`}
    <${Events} guid=${guid} />
    ${edited && html`<${Editor} record=${edited} onClose=${leave} onSaved=${leave} />`}
  `;
}

/** No record has the GUID. */
function Unknown() {
  return html`<p role="alert">No such GUID is registered: it never existed, was deleted, or was purged after its expiry.
    ${may("write") && html` To register it, choose New GUID in <a href=${urlOf("guids")}>the list of GUIDs</a> and enter it there.`}</p>`;
}

/** Load again when a record expires. @param {string | undefined} expire @param {() => void} reload */
function useReloadAt(expire, reload) {
  useEffect(() => {
    const milliseconds = Number(expire) * 1000 - Date.now();
    const timer = milliseconds > 0 && milliseconds < MAX_TIMER_MS ? setTimeout(reload, milliseconds + 100) : undefined;
    return () => clearTimeout(timer);
  }, [expire]);
}

/**
 * The actions for the version that is shown. The page may load another one while their dialog is open. While the version is
 * unknown, because an expired GUID is searched for, no action is offered that needs it.
 * @param {{guid: string, version: string, isRevoked?: boolean, onDone: (name: string) => void}} props
 */
function Actions({ guid, version, isRevoked = false, onDone }) {
  const [chosen, setChosen] = useState(/** @type {{name: string, selected: Map<string, {guid: string, version: string}>} | null} */ (null));
  const choose = (/** @type {string} */ name) => setChosen({ name, selected: new Map([[guid, { guid, version }]]) });
  const isOffered = (/** @type {string} */ name) => !(isRevoked && name === "revoke") && (Boolean(version) || !ACTIONS[name].needsVersion || !may("read"));
  return html`<${ActionButtons} onChosen=${choose} isOffered=${isOffered} />
    ${chosen && html`<${Bulk} name=${chosen.name} selected=${chosen.selected} onClose=${() => setChosen(null)} onDone=${() => (setChosen(null), onDone(chosen.name))} />`}`;
}

/** What happened to the GUID, as far as the event log reaches back. @param {{guid: string}} props */
function Events({ guid }) {
  const [isOpen, setOpen] = useState(false);
  const onToggle = (/** @type {any} */ event) => setOpen(event.currentTarget.open);
  return html`<details onToggle=${onToggle}><summary>What happened to it</summary>${isOpen && html`<${EventList} guid=${guid} />`}</details>`;
}

/** @param {{guid: string}} props */
function EventList({ guid }) {
  const { data, error } = useLoaded((signal) => readEvents(guid, signal), [guid]);
  if (error) return html`<${Problem} error=${error} isRetried=${true} />`;
  if (!data) return html`<p>Loading ...</p>`;
  if (!data.length) return html`<p>The event log has nothing of it.</p>`;
  return html`<ol class="events">
    ${data.map((/** @type {any} */ event) => html`<li key=${event.id}><${Time} at=${happenedAt(event) / 1000} isBoth=${true} /> <code>${event.type}</code>${event.changed && ` ${event.changed.join(", ")}`}${event.by && html` <span class="faint">by ${event.by}</span>`}</li>`)}
  </ol>`;
}

const MAX_PAGES = 20;

/** @param {string} guid @param {AbortSignal} signal */
async function readEvents(guid, signal) {
  const events = [];
  let [cursor, hasMore] = [undefined, true];
  for (let page = 0; hasMore && page < MAX_PAGES; page++) {
    const found = await load("events", { signal, query: { guid, cursor, view: "brief", limit: 100 }, isQuiet: page > 0 });
    events.push(...found.items);
    [cursor, hasMore] = [found.next, found.more];
  }
  return events.reverse();
}

/** Whether an error says that the record is not valid now. @param {any} error */
export const isGone = (error) => error instanceof RequestError && (error.status === 404 || error.status === 410);
