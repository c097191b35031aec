// @ts-check
/** The members of a GUID, and its life as a line. */

import { html } from "./preact.js";
import { CopyButton, State, Time } from "./components.js";
import { exact, isRevoked, jsonText, now, stateOf, visible } from "./values.js";

/** @param {{record: any}} props */
export function Members({ record }) {
  const milliseconds = (/** @type {string} */ text) => html`<${Time} at=${Number(text) / 1000} isBoth=${true} />`;
  const metadata = record.metadata && jsonText(record.metadata);
  return html`<dl class="members">
    <dt>GUID</dt><dd><code>${record.guid}</code> <${CopyButton} text=${record.guid} /></dd>
    <dt>State</dt><dd><${State} state=${stateOf(record)} /></dd>
    <dt>User</dt><dd><bdi>${visible(record.user)}</bdi></dd>
    ${record.owner && html`<dt>Owner</dt><dd><bdi>${visible(record.owner)}</bdi></dd>`}
    <dt>Expires</dt><dd>${isRevoked(record) ? "revoked, or created with an expiry in the past" : html`<${Time} at=${record.expire} isBoth=${true} />`}</dd>
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
export function LifeLine({ record }) {
  const created = Number(record.created) / 1000;
  const [expire, purge] = [Number(record.expire), Number(record.purge_at)];
  const at = (/** @type {number} */ time) => Math.round((1000 * (time - created)) / Math.max(1, purge - created));
  const place = at(expire);
  const isApart = place > 150 && place < 850; // the labels would cover each other
  const marks = [["created", created, "start"], ["purged", purge, "end"]].concat(isApart ? [["expires", expire, "middle"]] : []);
  return html`<svg class="life" viewBox="-4 0 1008 64" role="img" aria-label=${`Created ${exact(created)}, expires ${exact(expire)}, purged ${exact(purge)}`}>
    <rect class="valid" x="0" y="24" width=${Math.max(0, at(expire))} height="10" />
    <rect class="kept" x=${Math.max(0, at(expire))} y="24" width=${1000 - Math.max(0, at(expire))} height="10" />
    <line class="now" x1=${at(now())} x2=${at(now())} y1="14" y2="44" />
    <text class="now" x=${at(now())} y="10" text-anchor=${at(now()) < 100 ? "start" : at(now()) > 900 ? "end" : "middle"}>now</text>
    ${marks.map(([name, time, anchor]) => html`<text x=${Math.max(0, at(Number(time)))} y="58" text-anchor=${anchor}>${name}</text>`)}
  </svg>`;
}
