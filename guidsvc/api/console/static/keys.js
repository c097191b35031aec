// @ts-check
/** API keys: what each may do, what needs attention, and how to create, rotate and revoke one. */

import { html, useEffect, useState } from "./preact.js";
import { load } from "./api.js";
import { announce, Buttons, Choice, Dialog, Field, FilterChoice, onSubmit, Problem, State, Time, useAction, useLoaded } from "./components.js";
import { DraftNote, useDraft } from "./drafts.js";
import { expiryFault } from "./new_guid.js";
import { PageFoot, usePages } from "./pages.js";
import { currentPlace, replace } from "./router.js";
import { newSecret } from "./secret.js";
import { session } from "./session.js";
import { EXPIRY_HINT, now, parseExpiry, visible } from "./values.js";

const SCOPES = { read: "read GUIDs", write: "create and change GUIDs", delete: "delete GUIDs", monitor: "read metrics and figures", admin: "everything, for all owners, and manage keys" };
const STATES = { "": "all", live: "live", expired: "expired", revoked: "revoked" };
const PAGE_SIZE = 50;
const DAY_SECONDS = 86400;
const ENDS_WITHIN_DAYS = 14;
const UNUSED_DAYS = 90;
const OVERLAPS = { 0: "now: the key has leaked", 3600: "in 1 hour", 86400: "in 1 day", 604800: "in 7 days" };

/** @typedef {{id: string, owner: string, scopes: string[], created: string, used?: string, expire?: string, note?: string, state: string, key?: string}} Key */

/** What about a key needs attention. @param {Key} key */
export function warningsOf(key) {
  if (key.state !== "live") return [];
  const warnings = [];
  if (key.expire && Number(key.expire) - now() < ENDS_WITHIN_DAYS * DAY_SECONDS) warnings.push(`ends within ${ENDS_WITHIN_DAYS} days`);
  const lastUse = Number(key.used ?? key.created) / 1000;
  if (now() - lastUse > UNUSED_DAYS * DAY_SECONDS) warnings.push(`not used for ${UNUSED_DAYS} days`);
  if (key.scopes.includes("admin") && !key.expire) warnings.push("admin without an end");
  return warnings;
}

/** @param {{query: Record<string, string>}} props */
export function Keys({ query }) {
  const filter = JSON.stringify(query);
  const pages = usePages(filter);
  const { cursor } = pages;
  const { q, owner, state } = query;
  const list = useLoaded((signal) => load("keys", { signal, query: { q, owner, state, limit: PAGE_SIZE, cursor } }), [filter, cursor]);
  const [dialog, setDialog] = useState(/** @type {{name: string, key?: Key} | null} */ (null));
  const close = () => setDialog(null);
  const done = (/** @type {Key | undefined} */ key) => {
    close();
    if (key?.key) newSecret.value = { id: key.id, key: key.key };
    list.reload();
  };
  const dialogs = { new: NewKey, rotate: RotateKey, revoke: RevokeKey, note: NoteKey };
  const Shown = dialog && /** @type {Record<string, any>} */ (dialogs)[dialog.name];
  return html`
    <div class="tools"><button type="button" class="primary" data-shortcut="n" onClick=${() => setDialog({ name: "new" })}>New key</button></div>
    <${Filters} query=${query} />
    <${Problem} error=${list.error} isRetried=${true} />
    <${KeyTable} rows=${list.data?.items ?? []} isLoaded=${list.data !== null} onChosen=${(/** @type {string} */ name, /** @type {Key} */ key) => setDialog({ name, key })} />
    <${PageFoot} pages=${pages} list=${list} thing="key" />
    ${Shown && html`<${Shown} of=${dialog?.key} onClose=${close} onDone=${done} />`}
  `;
}

/** @param {{query: Record<string, string>}} props */
function Filters({ query }) {
  const [q, setQ] = useState(query.q ?? "");
  const [owner, setOwner] = useState(query.owner ?? "");
  useEffect(() => (setQ(query.q ?? ""), setOwner(query.owner ?? "")), [query.q, query.owner]);
  const apply = (/** @type {Record<string, string>} */ members) => replace("keys", { ...currentPlace().query, q, owner, ...members });
  return html`<form class="filters" aria-label="Filters" onSubmit=${onSubmit(() => apply({}))}>
    <${Field} label="Note, or beginning of the id" name="key-search" value=${q} onInput=${setQ} />
    <${Field} label="Owner" name="key-owner" value=${owner} onInput=${setOwner} />
    <${FilterChoice} label="State" name="key-state" value=${query.state ?? ""} options=${STATES} onInput=${(/** @type {string} */ state) => apply({ state })} />
    <button type="submit">Search</button>
  </form>`;
}

/** @param {{rows: Key[], isLoaded: boolean, onChosen: (name: string, key: Key) => void}} props */
function KeyTable({ rows, isLoaded, onChosen }) {
  if (!rows.length) return html`<p class="empty">${isLoaded ? "No key matches." : "Loading ..."}</p>`;
  const milliseconds = (/** @type {string | undefined} */ text) => (text ? html`<${Time} at=${Number(text) / 1000} />` : "never");
  return html`<div class="scroll" role="region" aria-label="Keys" tabindex="0"><table>
    <thead><tr><th scope="col">Key</th><th scope="col">Note</th><th scope="col">Owner</th><th scope="col">May</th><th scope="col">Created</th><th scope="col">Used</th><th scope="col">Expires</th><th scope="col">State</th><th scope="col">Change</th></tr></thead>
    <tbody>
      ${rows.map((key) => html`<tr key=${key.id}>
        <th scope="row"><code>${key.id}</code>${key.id === session.value?.id && " (this one)"}</th>
        <td data-name="Note"><bdi>${visible(key.note ?? "")}</bdi></td>
        <td data-name="Owner"><bdi>${visible(key.owner)}</bdi></td>
        <td data-name="May">${key.scopes.join(" ")}</td>
        <td data-name="Created">${milliseconds(key.created)}</td>
        <td data-name="Used">${milliseconds(key.used)}</td>
        <td data-name="Expires">${key.expire ? html`<${Time} at=${key.expire} />` : "never"}</td>
        <td data-name="State"><${State} state=${key.state} />${warningsOf(key).map((warning) => html`<span class="warning">${warning}</span>`)}</td>
        <td class="actions">
          <button type="button" class="small" aria-label=${`Note of ${key.id}`} onClick=${() => onChosen("note", key)}>Note</button>
          ${key.state === "live" && html`<button type="button" class="small" aria-label=${`Rotate ${key.id}`} onClick=${() => onChosen("rotate", key)}>Rotate</button>`}
          ${key.state === "live" && html`<button type="button" class="small danger" aria-label=${`Revoke ${key.id}`} onClick=${() => onChosen("revoke", key)}>Revoke</button>`}
        </td>
      </tr>`)}
    </tbody>
  </table></div>`;
}

/** @param {any} props */
function NewKey({ onClose, onDone }) {
  const { draft, setDraft, forget, layAside, isOld } = useDraft("new key", { owner: "", scopes: ["read"], expiry: "90d", note: "" });
  const { owner, scopes, expiry, note } = draft;
  const write = (/** @type {string} */ name) => (/** @type {unknown} */ value) => setDraft({ ...draft, [name]: value });
  const { isBusy, error, run } = useAction();
  const fault = expiryFault(expiry);
  const set = (/** @type {string} */ scope, /** @type {boolean} */ isOn) => write("scopes")(isOn ? [...scopes, scope] : scopes.filter((each) => each !== scope));
  const create = () =>
    run(async () => {
      if (!scopes.length) throw new Error("Choose at least one thing that the key may do.");
      const optional = { ...(expiry.trim() ? { expire: String(parseExpiry(expiry)) } : {}), ...(note.trim() ? { note } : {}) };
      const created = await load("keys", { method: "POST", json: { owner, scopes, ...optional } });
      forget();
      onDone(created);
    });
  return html`<${Dialog} title="New key" onClose=${() => (layAside(), onClose())}>
    <form onSubmit=${onSubmit(create)}>
      <${DraftNote} isOld=${isOld} />
      <${Field} label="Owner" name="new-owner" value=${owner} onInput=${write("owner")} required maxlength="256" fault=${owner && !owner.trim() ? "An owner has a character that is not a space." : ""} hint="Whose GUIDs the key works on" />
      <fieldset><legend>The key may</legend>
        ${Object.entries(SCOPES).map(([scope, text]) => html`<label class="check"><input type="checkbox" checked=${scopes.includes(scope)} onChange=${(/** @type {any} */ event) => set(scope, event.currentTarget.checked)} /> <span><strong>${scope}</strong>: ${text}</span></label>`)}
      </fieldset>
      <${Field} label="Expiry (optional)" name="new-key-expiry" value=${expiry} onInput=${write("expiry")} fault=${fault} hint=${`${EXPIRY_HINT}. Without one, the key never ends`} />
      <${Field} label="Note (optional)" name="new-note" value=${note} onInput=${write("note")} maxlength="200" hint="What the key is for" />
      <${Problem} error=${error} />
      <${Buttons} action="Create" isBusy=${isBusy} onCancel=${() => (forget(), onClose())} />
    </form>
  <//>`;
}

/** @param {any} props */
function RotateKey({ of, onClose, onDone }) {
  const [overlap, setOverlap] = useState("3600");
  const { isBusy, error, run } = useAction();
  const rotate = () => run(async () => onDone(await load(`keys/${of.id}/rotation`, { method: "POST", json: { overlap: Number(overlap) } })));
  return html`<${Dialog} title=${`Rotate the key of ${visible(of.owner)}`} onClose=${onClose}>
    <form onSubmit=${onSubmit(rotate)}>
      <p>The key <code>${of.id}</code> gets a new secret. Its owner, scopes and note stay.</p>
      <${Choice} label="The old secret ends" name="overlap" value=${overlap} options=${OVERLAPS} onInput=${setOverlap} />
      ${overlap !== "0" && html`<p>A key has two secrets at most: if you rotate it again before the old one ends, that one ends at once.</p>`}
      <${Problem} error=${error} />
      <${Buttons} action="Rotate" isBusy=${isBusy} isDangerous=${overlap === "0"} onCancel=${onClose} />
    </form>
  <//>`;
}

/** @param {any} props */
function RevokeKey({ of, onClose, onDone }) {
  const { isBusy, error, run } = useAction();
  const revoke = () =>
    run(async () => {
      await load(`keys/${of.id}`, { method: "DELETE" });
      announce(`The key ${of.id} is revoked. Every process rejects it within 5 seconds.`);
      onDone();
    });
  return html`<${Dialog} title=${`Revoke the key of ${visible(of.owner)}?`} onClose=${onClose}>
    <form onSubmit=${onSubmit(revoke)}>
      <p>Programs that use <code>${of.id}</code>${of.note && html` (<bdi>${visible(of.note)}</bdi>)`} get 401 within 5 seconds. This cannot be undone.</p>
      ${of.id === session.value?.id && html`<p><strong>This is the key that you are using now.</strong></p>`}
      <${Problem} error=${error} />
      <${Buttons} action="Revoke" isBusy=${isBusy} isDangerous=${true} onCancel=${onClose} />
    </form>
  <//>`;
}

/** @param {any} props */
function NoteKey({ of, onClose, onDone }) {
  const [note, setNote] = useState(of.note ?? "");
  const { isBusy, error, run } = useAction();
  const save = () =>
    run(async () => {
      await load(`keys/${of.id}`, { method: "PATCH", json: { note: note.trim() ? note : null } });
      announce("Saved.");
      onDone();
    });
  return html`<${Dialog} title=${`Note of the key of ${visible(of.owner)}`} onClose=${onClose}>
    <form onSubmit=${onSubmit(save)}>
      <${Field} label="Note" name="note" value=${note} onInput=${setNote} maxlength="200" hint="What the key is for. Empty removes the note" />
      <${Problem} error=${error} />
      <${Buttons} action="Save" isBusy=${isBusy} onCancel=${onClose} />
    </form>
  <//>`;
}
