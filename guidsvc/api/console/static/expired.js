// @ts-check
/** A GUID that is no longer valid: whether it expired or was revoked, until when it can be renewed, and its members. */

import { html } from "./preact.js";
import { loadExactly } from "./api.js";
import { CopyButton, State, Time, useLoaded } from "./components.js";
import { Members } from "./members.js";
import { urlOf } from "./router.js";
import { isRevokedAt } from "./values.js";

const LISTED = 500;

/** Find the members in the list of what expired in the same second; null if it has too many others. @param {string} guid @param {string} at @param {AbortSignal} signal */
async function findExpired(guid, at, signal) {
  const bounds = { expires_after: Number(at) > 0 ? String(Number(at) - 1) : "", expires_before: String(Number(at) + 1) };
  const query = { ...bounds, state: "expired", view: "full", limit: LISTED };
  const { items } = await loadExactly("guid", { signal, query, isQuiet: true });
  return items.find((/** @type {any} */ record) => record.guid === guid) ?? null;
}

/** @param {{guid: string, problem: any}} props */
export function Expired({ guid, problem }) {
  const { data: record } = useLoaded((signal) => findExpired(guid, problem.expired_at, signal), [guid, problem.expired_at]);
  const isOver = isRevokedAt(problem.expired_at);
  return html`<p><${State} state=${isOver ? "revoked" : "expired"} /> ${isOver ? "It was revoked, or created with an expiry in the past." : html`It expired <${Time} at=${problem.expired_at} isBoth=${true} />.`}
    It can be renewed until it is purged, <${Time} at=${problem.renewable_until} isBoth=${true} />.</p>
    ${record
      ? html`<${Members} record=${record} />`
      : html`<p><a href=${urlOf("guids", { state: "expired" })}>The list of expired GUIDs</a> shows its members.</p><p class="faint"><code>${guid}</code> <${CopyButton} text=${guid} /></p>`}`;
}
