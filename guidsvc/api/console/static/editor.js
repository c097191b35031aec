// @ts-check
/** The editor of a GUID. A change made by somebody else meanwhile is shown, and never overwritten unseen. */

import { html, useState } from "./preact.js";
import { load, RequestError } from "./api.js";
import { announce, Buttons, Dialog, Field, onSubmit, Problem, useAction } from "./components.js";
import { DraftNote, useDraft } from "./drafts.js";
import { isGone, readRecord } from "./guid.js";
import { changes, isConflict, merged } from "./merge.js";
import { expiryFault, metadataFault, writeBody } from "./new_guid.js";
import { EXPIRY_HINT, exact, parseExpiry, visible } from "./values.js";

/** @typedef {import("./merge.js").Draft} Draft */

/** @param {any} record @returns {Draft} */
const draftOf = (record) => ({
  user: record.user,
  expiry: exact(record.expire),
  metadata: record.metadata ? JSON.stringify(record.metadata, null, 2) : "",
});

/**
 * The body of a write that changes only what the draft has changed. Without a new expiry, it does not revive a GUID that
 * has expired meanwhile.
 * @param {Draft} draft
 * @param {Draft} base
 */
function bodyOf(draft, base) {
  const members = /** @type {Record<string, string | boolean>} */ ({});
  if (draft.user !== base.user) members.user = draft.user;
  if (draft.expiry !== base.expiry) members.expire = String(parseExpiry(draft.expiry));
  else if (draft.user !== base.user || draft.metadata !== base.metadata) members.revive = false;
  return writeBody(members, draft.metadata === base.metadata ? undefined : draft.metadata);
}

const EXPIRED = "Meanwhile, this GUID expired. Your text is still here: enter a later expiry to save it and make the GUID valid again.";

/** The name of the draft of an edit. @param {string} guid */
export const draftName = (guid) => `edit ${guid}`;

/** @param {{record: any, onClose: () => void, onSaved: () => void}} props */
export function Editor({ record, onClose, onSaved }) {
  const initial = { version: record.version, base: draftOf(record), draft: draftOf(record) };
  const { draft: edit, setDraft: setEdit, forget, layAside, isOld } = useDraft(draftName(record.guid), initial);
  const { version: baseVersion, base, draft } = edit;
  const [theirs, setTheirs] = useState(/** @type {any} */ (null));
  const { isBusy, error, run } = useAction();
  const faults = { expiry: expiryFault(draft.expiry), metadata: metadataFault(draft.metadata) };

  const save = (/** @type {string} */ version, /** @type {string} */ body) =>
    run(async () => {
      if (body === "{}" && !theirs) throw new Error("You have changed nothing yet.");
      try {
        const headers = { "Content-Type": "application/json", "If-Match": `"${version}"`, Prefer: "return=minimal" };
        if (body !== "{}") await load(`guid/${record.guid}`, { method: "PUT", body, headers }); // else they made the same change
      } catch (caught) {
        if (caught instanceof RequestError && caught.status === 410) throw new Error(EXPIRED);
        if (!(caught instanceof RequestError && caught.status === 412)) throw caught;
        setTheirs(await readRecord(record.guid).catch((reading) => {
          throw isGone(reading) ? new Error("Meanwhile, somebody deleted this GUID, or it expired. Your text is still here: copy it if you need it.") : reading;
        }));
        announce("Somebody changed this while you edited it.");
        return;
      }
      forget();
      announce("Saved.");
      onSaved();
    });
  const set = (/** @type {keyof Draft} */ name) => (/** @type {string} */ value) => setEdit({ ...edit, draft: { ...draft, [name]: value } });
  const cancel = () => (forget(), onClose());
  const close = () => (layAside(), onClose());

  if (theirs) {
    const newest = draftOf(theirs);
    const putOnTop = () => save(theirs.version, bodyOf(merged(base, draft, newest), newest));
    const takeTheirs = () => (forget(), announce("Theirs stays."), onSaved());
    return html`<${Dialog} title="Somebody changed this while you edited it" onClose=${close} key="conflict">
      <${Conflict} base=${base} mine=${draft} theirs=${newest} />
      <${Problem} error=${error} />
      <div class="buttons">
        <button type="button" class="primary" aria-disabled=${isBusy ? "true" : undefined} onClick=${putOnTop}>Put mine on top of theirs</button>
        <button type="button" onClick=${takeTheirs}>Take theirs</button>
        <button type="button" onClick=${() => setTheirs(null)}>Back to my text</button>
      </div>
    <//>`;
  }
  return html`<${Dialog} title="Edit GUID" onClose=${close} key="edit">
    <form onSubmit=${onSubmit(() => save(baseVersion, bodyOf(draft, base)))}>
      <${DraftNote} isOld=${isOld} />
      <${Field} label="User" name="edit-user" value=${draft.user} onInput=${set("user")} required maxlength="256" />
      <${Field} label="Expiry" name="edit-expiry" value=${draft.expiry} onInput=${set("expiry")} required fault=${faults.expiry} hint=${EXPIRY_HINT} />
      <${Field} label="Metadata" name="edit-metadata" rows="8" value=${draft.metadata} onInput=${set("metadata")} fault=${faults.metadata} hint="A JSON object. Empty removes the metadata" />
      <${Problem} error=${error} />
      <${Buttons} action="Save" isBusy=${isBusy} onCancel=${cancel} />
    </form>
  <//>`;
}

/** @param {{base: Draft, mine: Draft, theirs: Draft}} props */
function Conflict({ base, mine, theirs }) {
  const author = (/** @type {import("./merge.js").Change} */ { mine, theirs, isMine, isTheirs }) =>
    isMine && isTheirs ? (mine === theirs ? "both, alike" : "both: they differ") : isMine ? "you" : isTheirs ? "they" : "nobody";
  return html`<div class="scroll" role="region" aria-label="Both versions" tabindex="0"><table class="conflict">
      <thead><tr><th scope="col">Member</th><th scope="col">Yours</th><th scope="col">Theirs (now)</th><th scope="col">Who changed it</th></tr></thead>
      <tbody>
        ${changes(base, mine, theirs).map((change) => html`<tr class=${isConflict(change) ? "differs" : ""}>
          <th scope="row">${visible(change.name)}</th>
          ${[change.mine, change.theirs].map((text) => html`<td><pre>${visible(text ?? "none")}</pre></td>`)}
          <td>${author(change)}</td>
        </tr>`)}
      </tbody>
    </table></div>
    <p class="faint">To put yours on top writes the members and the keys of the metadata that you changed, and leaves the others as they are now.</p>`;
}
