// @ts-check
/** The dialog that creates a GUID, and the members that people enter in it and in the editor. */

import { html, useState } from "./preact.js";
import { load } from "./api.js";
import { announce, Buttons, Dialog, Field, onSubmit, Problem, useAction } from "./components.js";
import { DraftNote, useDraft } from "./drafts.js";
import { EXPIRY_HINT, guidFault, objectFault, parseDuration, parseExpiry, parseGuid } from "./values.js";

/** A random key by which the service recognizes a request that is sent again. It exists without TLS, too. */
export function idempotencyKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The body of a write. Metadata is written as it was typed: its numbers keep all their digits.
 * @param {Record<string, string | boolean>} members
 * @param {string} [metadata] a JSON object
 */
export function writeBody(members, metadata) {
  const parts = Object.entries(members).map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
  if (metadata !== undefined) parts.push(`"metadata":${metadata.trim() || "{}"}`);
  return `{${parts.join(",")}}`;
}

/** What is wrong with an expiry; nothing if it is empty. @param {string} text */
export const expiryFault = (text) => (text.trim() && Number.isNaN(parseExpiry(text)) ? `This is not a time. ${EXPIRY_HINT}.` : "");

/** What is wrong with metadata; nothing if it is empty. @param {string} text */
export const metadataFault = (text) => (text.trim() ? objectFault(text) : "");

/** The member of a write that stands for an expiry: a duration counts from when the service reads it. @param {string} text */
export function expiryMember(text) {
  const seconds = parseDuration(text);
  return /** @type {Record<string, string>} */ (seconds ? { ttl: String(seconds) } : { expire: String(parseExpiry(text)) });
}

/** @param {{onClose: () => void, onCreated: (guid: string) => void}} props */
export function NewGuid({ onClose, onCreated }) {
  const { draft, setDraft, forget, layAside, isOld } = useDraft("new GUID", { guid: "", user: "", expiry: "", metadata: "" });
  const { guid, user, expiry, metadata } = draft;
  const set = (/** @type {keyof typeof draft} */ name) => (/** @type {string} */ value) => setDraft({ ...draft, [name]: value });
  const [key] = useState(idempotencyKey);
  const { isBusy, error, run } = useAction();
  const faults = {
    guid: guidFault(guid),
    user: user && !user.trim() ? "A user has a character that is not a space." : "",
    expiry: expiryFault(expiry),
    metadata: metadataFault(metadata),
  };
  const create = () =>
    run(async () => {
      const body = writeBody({ user, ...(expiry.trim() ? expiryMember(expiry) : {}) }, metadata.trim() ? metadata : undefined);
      const type = { "Content-Type": "application/json" };
      const named = parseGuid(guid);
      const record = named
        ? await load(`guid/${named}`, { method: "PUT", body, headers: { ...type, "If-None-Match": "*" } })
        : await load("guid", { method: "POST", body, headers: { ...type, "Idempotency-Key": key } });
      forget();
      announce(`Created ${record.guid}.`);
      onClose();
      onCreated(record.guid);
    });
  return html`<${Dialog} title="New GUID" onClose=${() => (layAside(), onClose())}>
    <form onSubmit=${onSubmit(create)}>
      <${DraftNote} isOld=${isOld} />
      <${Field} label="User" name="new-user" value=${user} onInput=${set("user")} required maxlength="256" fault=${faults.user} hint="Whose GUID it is: any text" />
      <${Field} label="GUID (optional)" name="new-guid" value=${guid} onInput=${set("guid")} fault=${faults.guid} hint="Without one, the service draws one" />
      <${Field} label="Expiry (optional)" name="new-expiry" value=${expiry} onInput=${set("expiry")} fault=${faults.expiry} hint=${`${EXPIRY_HINT}. Without one, the default of the service, normally 30 days`} />
      <${Field} label="Metadata (optional)" name="new-metadata" rows="4" value=${metadata} onInput=${set("metadata")} fault=${faults.metadata} hint='A JSON object, such as {"env": "test"}' />
      <${Problem} error=${error} />
      <${Buttons} action="Create" isBusy=${isBusy} onCancel=${() => (forget(), onClose())} />
    </form>
  <//>`;
}
