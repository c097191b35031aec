// @ts-check
/** What happens to GUIDs, as it happens. The stream is read by `fetch`, because an EventSource cannot send a key. */

import { html, useEffect, useRef, useState } from "./preact.js";
import { load, loadLines } from "./api.js";
import { announce, Field, FilterChoice, onSubmit, Problem } from "./components.js";
import { currentPlace, replace, urlOf } from "./router.js";
import { counted, duration, grouped, guidFault, happenedAt, parseGuid, visible } from "./values.js";

const SHOWN = 200;
const DRAW_MS = 150;
const MIN_PAUSE_MS = 1000;
const TYPES = {
  "": "all", "guid.created": "created", "guid.updated": "updated", "guid.renewed": "renewed", "guid.expiring": "expiring",
  "guid.expired": "expired", "guid.deleted": "deleted", "guid.purged": "purged",
};

/** @typedef {{id: string, type: string, at: string, guid: string, changed?: string[], left?: string, by?: string, user?: string}} Row */

/** @param {any} event @returns {Row} */
const rowOf = ({ record, ...event }) => ({ ...event, at: new Date(happenedAt(event)).toISOString(), user: record?.user });

/**
 * Follows the events that a filter selects. It keeps its place, and goes on from there after a break. Events are kept
 * only as far as they are shown, and drawn a few times a second, however many come.
 */
class Follower {
  /** @param {Record<string, string>} filter @param {() => void} draw */
  constructor(filter, draw) {
    this.filter = filter;
    this.draw = draw;
    /** @type {Row[]} the newest first */
    this.rows = [];
    this.count = 0;
    /** @type {string | undefined} */
    this.cursor = undefined;
    this.status = "connecting";
    /** @type {any} */
    this.error = null;
    /** @type {AbortController | null} */
    this.controller = null;
    this.timer = 0;
    this.drawTimer = 0;
  }

  start() {
    this.stop();
    this.set("connecting");
    this.controller = new AbortController();
    void this.read(this.controller.signal);
  }

  stop() {
    this.controller?.abort();
    this.controller = null;
    clearTimeout(this.timer);
    this.set("paused");
  }

  /** Go on elsewhere: with the oldest event there is, or with the next one. @param {string | undefined} cursor */
  continueAt(cursor) {
    this.cursor = cursor;
    this.error = null;
    this.start();
  }

  /** @param {AbortSignal} signal */
  async read(signal) {
    try {
      this.cursor ??= (await load("events", { signal, query: { from: "now", limit: 1 }, isQuiet: true })).next;
      const onOpen = () => ((this.error = null), this.set("following"));
      for await (const line of loadLines("events", { signal, onOpen, query: { ...this.filter, cursor: this.cursor, follow: "true" } })) {
        if (signal.aborted) return;
        this.take(line);
      }
      this.retry(signal, MIN_PAUSE_MS);
    } catch (error) {
      if (signal.aborted) return;
      this.error = error;
      if (/** @type {any} */ (error).isTemporary) this.retry(signal, 1000 * Math.max(1, /** @type {any} */ (error).retryAfter));
      else this.set("ended");
    }
  }

  /** @param {any} line */
  take(line) {
    this.cursor = line.cursor;
    this.error = null;
    if (line.type !== "bookmark" && !this.rows.some(({ id }) => id === line.id)) {
      this.count++;
      this.rows.unshift(rowOf(line));
      if (this.rows.length > 2 * SHOWN) this.rows.length = SHOWN;
    }
    this.set("following");
  }

  /** @param {AbortSignal} signal @param {number} milliseconds */
  retry(signal, milliseconds) {
    this.set("broken");
    this.timer = setTimeout(() => signal.aborted || this.start(), milliseconds);
  }

  /** @param {string} status */
  set(status) {
    this.status = status;
    this.drawTimer ||= setTimeout(() => ((this.drawTimer = 0), this.draw()), DRAW_MS);
  }
}

/** @param {{query: Record<string, string>}} props */
export function Live({ query }) {
  const [, setRound] = useState(0);
  const follower = useRef(/** @type {Follower | null} */ (null));
  const [isPaused, setPaused] = useState(false);
  const filter = { type: query.type ?? "", guid: query.guid ?? "", user: query.user ?? "" };
  const key = JSON.stringify(filter);
  useEffect(() => {
    const following = new Follower(filter, () => setRound((round) => round + 1));
    follower.current = following;
    following.start();
    setPaused(false);
    return () => following.stop();
  }, [key]);
  const { rows = [], count = 0, status = "connecting", error = null } = follower.current ?? {};
  const toggle = () => {
    if (isPaused) follower.current?.start();
    else follower.current?.stop();
    setPaused(!isPaused);
  };
  const words = { connecting: "Connecting ...", following: "Following", paused: "Paused", broken: "The stream broke off; it goes on by itself", ended: "Ended" };
  const hidden = count - Math.min(SHOWN, rows.length);
  return html`
    <${Filters} filter=${filter} />
    <div class="tools">
      <button type="button" class="primary" onClick=${toggle}>${isPaused ? "Go on" : "Pause"}</button>
      <span>${/** @type {Record<string, string>} */ (words)[status]}. ${counted(count, "event")}${hidden > 0 ? `, ${grouped(hidden)} of them not shown any more` : ""}</span>
    </div>
    ${error?.problem?.code === "events-gone" ? html`<${Gone} problem=${error.problem} follower=${follower.current} />` : html`<${Problem} error=${error} isRetried=${true} />`}
    ${rows.length === 0 && !error && html`<p class="empty">Events appear here when something happens to a GUID.</p>`}
    ${rows.length > 0 &&
    html`<div class="scroll" role="region" aria-label="Events" tabindex="0"><table class="live">
      <thead><tr><th scope="col">When</th><th scope="col">What</th><th scope="col">GUID</th><th scope="col">User</th><th scope="col">By</th></tr></thead>
      <tbody>${rows.slice(0, SHOWN).map((row) => html`<${Event} key=${row.id} row=${row} />`)}</tbody>
    </table></div>`}
  `;
}

/** @param {{row: Row}} props */
function Event({ row }) {
  const detail = row.changed?.join(", ") ?? (row.left ? `${duration(Number(row.left))} left` : "");
  return html`<tr>
    <td data-name="When"><time title=${row.at}>${row.at.slice(11, 23)}</time></td>
    <td data-name="What">${row.type.replace("guid.", "")}${detail && html` <span class="faint">${detail}</span>`}</td>
    <th scope="row"><a href=${urlOf(`guids/${row.guid}`)}><code>${row.guid}</code></a></th>
    <td data-name="User"><bdi>${visible(row.user ?? "")}</bdi></td>
    <td data-name="By"><bdi>${visible(row.by ?? "")}</bdi></td>
  </tr>`;
}

/** The log no longer reaches back to the place: some events were missed. @param {{problem: any, follower: Follower | null}} props */
function Gone({ problem, follower }) {
  const goOn = (/** @type {string} */ cursor) => (announce("The feed goes on."), follower?.continueAt(cursor));
  return html`<div class="problem" role="alert">
    <strong>Some events were missed.</strong> ${problem.detail}
    <div class="buttons">
      <button type="button" onClick=${() => goOn(problem.oldest)}>Go on with the oldest event</button>
      <button type="button" onClick=${() => goOn(problem.now)}>Go on with the next event</button>
    </div>
  </div>`;
}

/** @param {{filter: Record<string, string>}} props */
function Filters({ filter }) {
  const [guid, setGuid] = useState(filter.guid);
  const [user, setUser] = useState(filter.user);
  useEffect(() => (setGuid(filter.guid), setUser(filter.user)), [filter.guid, filter.user]);
  const fault = guidFault(guid);
  const apply = (/** @type {Record<string, string>} */ members) => fault || replace("live", { ...currentPlace().query, guid: parseGuid(guid) ?? "", user, ...members });
  return html`<form class="filters" aria-label="Filters" onSubmit=${onSubmit(() => apply({}))}>
    <${FilterChoice} label="What" name="live-type" value=${filter.type} options=${TYPES} onInput=${(/** @type {string} */ type) => apply({ type })} />
    <${Field} label="GUID" name="live-guid" value=${guid} onInput=${setGuid} fault=${fault} />
    <${Field} label="User" name="live-user" placeholder="the whole name" value=${user} onInput=${setUser} />
    <button type="submit">Apply</button>
  </form>`;
}
