// @ts-check
/** A GUID that is no longer valid: whether it expired or was revoked, until when it can be renewed, and its members. */

import { html } from "./preact.js";
import { loadExactly } from "./api.js";
import { CopyButton, State, Time } from "./components.js";
import { Members } from "./members.js";
import { urlOf } from "./router.js";
import { isRevoked, stateOf } from "./values.js";

const PAGE_SIZE = 500;
const MAX_PAGES = 10;

/**
 * Find a GUID that is no longer valid in the list of what expired in the same second.
 * @param {string} guid
 * @param {string} at its expiry
 * @param {AbortSignal} signal
 * @returns {Promise<any>} its record, or false if too many others stand before it
 */
export async function findExpired(guid, at, signal) {
  const bounds = { expires_after: Number(at) > 0 ? String(Number(at) - 1) : "", expires_before: String(Number(at) + 1) };
  let cursor = "";
  for (let page = 0; page < MAX_PAGES && cursor !== null; page++) {
    const found = await loadExactly("guid", { signal, query: { ...bounds, state: "expired", view: "full", limit: PAGE_SIZE, cursor }, isQuiet: true });
    const record = found.items.find((/** @type {any} */ each) => each.guid === guid);
    if (record) return record;
    cursor = found.next;
  }
  return false;
}

/** @param {{guid: string, problem: any, record: any}} props `record`: null before the search for it has ended, false if it was not found */
export function Expired({ guid, problem, record }) {
  if (record === null) return html`<p>Loading ...</p>`;
  const until = html`It can be renewed until it is purged, <${Time} at=${problem.renewable_until} isBoth=${true} />.`;
  if (!record) {
    return html`<p>It expired or was revoked. ${until}</p>
      <p><a href=${urlOf("guids", { state: "expired" })}>The list of expired GUIDs</a> shows its members.</p><p class="faint"><code>${guid}</code> <${CopyButton} text=${guid} /></p>`;
  }
  return html`<p><${State} state=${stateOf(record)} /> ${isRevoked(record) ? "It was revoked, or created with an expiry in the past." : html`It expired <${Time} at=${record.expire} isBoth=${true} />.`} ${until}</p>
    <${Members} record=${record} />`;
}
