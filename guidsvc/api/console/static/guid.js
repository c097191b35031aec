// @ts-check
/** One GUID: its members, its life, what happened to it, and what can be done with it. */

import { html, useState } from "./preact.js";
import { load, RequestError, send } from "./api.js";
import { ActionButtons, Bulk } from "./bulk.js";
import { CopyButton, Problem, State, Time, useLoaded } from "./components.js";
import { hasDraft } from "./drafts.js";
import { draftName, Editor } from "./editor.js";
import { go, urlOf } from "./router.js";
import { may } from "./session.js";
import { exact, now, parseExactly, parseGuid, visible } from "./values.js";

/** Read a record with all its members. Its numbers keep all their digits. @param {string} guid @param {AbortSignal} [signal] */
export async function readRecord(guid, signal) {
  const response = await send(`guid/${guid}`, { signal, query: { view: "full" }, headers: { Accept: "application/json" } });
  return parseExactly(await response.text());
}

/** @param {{guid: string}} props */
export function Guid({ guid }) {
  const taken = parseGuid(guid);
  if (taken !== guid) {
    return html`<p>${taken ? html`A GUID is written as <a href=${urlOf(`guids/${taken}`)}>${taken}</a>.` : "This is not a GUID: it must have 32 hexadecimal characters."}</p>`;
  }
  return may("read") ? html`<${Readable} guid=${guid} />` : html`<p>Your key may not read GUIDs.</p><${Actions} guid=${guid} version="" onDone=${() => {}} />`;
}

/** @param {{guid: string}} props */
function Readable({ guid }) {
  const { data, error, reload } = useLoaded((signal) => readRecord(guid, signal), [guid]);
  const [isEdited, setEdited] = useState(false);
  const record = error?.status === 410 || error?.status === 404 ? null : data;
  const done = (/** @type {string} */ name) => (name === "delete" ? go("guids") : reload());
  return html`
    ${error?.status === 410 ? html`<${Expired} guid=${guid} problem=${error.problem} />` : html`<${Problem} error=${error} isRetried=${true} />`}
    ${!record && !error && html`<p>Loading ...</p>`}
    ${record && html`<${Members} record=${record} /><${LifeLine} record=${record} />`}
    ${(record || error?.status === 410) &&
    html`<div class="tools">
      ${record && may("write") && html`<button type="button" class="primary" data-shortcut="e" onClick=${() => setEdited(true)}>Edit</button>`}
      <${Actions} guid=${guid} version=${record?.version ?? ""} onDone=${done} />
    </div>`}
    ${record && may("write") && !isEdited && hasDraft(draftName(guid)) && html`<p>You changed this GUID and did not save it. <button type="button" onClick=${() => setEdited(true)}>Go on editing</button></p>`}
    ${record && html`<details><summary>As JSON</summary><pre tabindex="0"><code>${visible(JSON.stringify(record, null, 2)).replaceAll("\\u{a}", "\n")}</code></pre></details>`}
    <${Events} guid=${guid} />
    ${isEdited && record && html`<${Editor} record=${record} onClose=${() => setEdited(false)} onSaved=${() => (setEdited(false), reload())} />`}
  `;
}

/** @param {{guid: string, problem: any}} props */
function Expired({ guid, problem }) {
  return html`<p><${State} state="expired" /> It expired <${Time} at=${problem.expired_at} isBoth=${true} />.
    It can be renewed until it is purged, <${Time} at=${problem.renewable_until} isBoth=${true} />.
    Until then, <a href=${urlOf("guids", { state: "expired" })}>the list of expired GUIDs</a> shows its members.</p>
    <p class="faint"><code>${guid}</code> <${CopyButton} text=${guid} /></p>`;
}

/** @param {{guid: string, version: string, onDone: (name: string) => void}} props */
function Actions({ guid, version, onDone }) {
  const [action, setAction] = useState("");
  return html`<${ActionButtons} onChosen=${setAction} />
    ${action && html`<${Bulk} name=${action} selected=${new Map([[guid, version]])} onClose=${() => setAction("")} onDone=${() => (setAction(""), onDone(action))} />`}`;
}

/** @param {{record: any}} props */
function Members({ record }) {
  const milliseconds = (/** @type {string} */ text) => html`<${Time} at=${Number(text) / 1000} isBoth=${true} />`;
  const metadata = record.metadata && visible(JSON.stringify(record.metadata, null, 2)).replaceAll("\\u{a}", "\n");
  return html`<dl class="members">
    <dt>GUID</dt><dd><code>${record.guid}</code> <${CopyButton} text=${record.guid} /></dd>
    <dt>State</dt><dd><${State} state=${record.state} /></dd>
    <dt>User</dt><dd><bdi>${visible(record.user)}</bdi></dd>
    ${record.owner && html`<dt>Owner</dt><dd><bdi>${visible(record.owner)}</bdi></dd>`}
    <dt>Expires</dt><dd><${Time} at=${record.expire} isBoth=${true} /></dd>
    ${record.renew_at && html`<dt>Renew at</dt><dd><${Time} at=${record.renew_at} isBoth=${true} /></dd>`}
    ${record.max_expire && html`<dt>Latest expiry</dt><dd><${Time} at=${record.max_expire} isBoth=${true} /></dd>`}
    <dt>Created</dt><dd>${milliseconds(record.created)}</dd>
    <dt>Changed</dt><dd>${milliseconds(record.updated)}</dd>
    <dt>Purged</dt><dd><${Time} at=${record.purge_at} isBoth=${true} /></dd>
    <dt>Version</dt><dd><code>${record.version}</code></dd>
    ${metadata && html`<dt>Metadata</dt><dd><pre tabindex="0"><code>${metadata}</code></pre></dd>`}
  </dl>`;
}

/** The life of a GUID as a line. The list of members says the same in words. @param {{record: any}} props */
function LifeLine({ record }) {
  const created = Number(record.created) / 1000;
  const [expire, purge] = [Number(record.expire), Number(record.purge_at)];
  const at = (/** @type {number} */ time) => Math.round((1000 * (time - created)) / Math.max(1, purge - created));
  const marks = [["created", created, "start"], ["expires", expire, "middle"], ["purged", purge, "end"]];
  return html`<svg class="life" viewBox="-4 0 1008 64" role="img" aria-label=${`Created ${exact(created)}, expires ${exact(expire)}, purged ${exact(purge)}`}>
    <rect class="valid" x="0" y="24" width=${Math.max(0, at(expire))} height="10" />
    <rect class="kept" x=${Math.max(0, at(expire))} y="24" width=${1000 - Math.max(0, at(expire))} height="10" />
    <line class="now" x1=${at(now())} x2=${at(now())} y1="14" y2="44" />
    <text class="now" x=${at(now())} y="10" text-anchor=${at(now()) < 100 ? "start" : at(now()) > 900 ? "end" : "middle"}>now</text>
    ${marks.map(([name, time, anchor]) => html`<text x=${Math.max(0, at(Number(time)))} y="58" text-anchor=${anchor}>${name}</text>`)}
  </svg>`;
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
    ${data.map((/** @type {any} */ event) => html`<li key=${event.id}><${Time} at=${Number(event.at) / 1000} isBoth=${true} /> <code>${event.type}</code>${event.changed && ` ${event.changed.join(", ")}`}${event.by && html` <span class="faint">by ${event.by}</span>`}</li>`)}
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
