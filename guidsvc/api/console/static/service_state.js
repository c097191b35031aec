// @ts-check
/** The state of the service, in the header: ready, degraded and why, or out of reach. */

import { html, useEffect, useRef } from "./preact.js";
import { RequestError, load } from "./api.js";
import { announce, useLoaded } from "./components.js";
import { sharedValue } from "./shared.js";

const EVERY_SECONDS = 5;

/** The last answer of `/readyz`, or why there is none. The header asks for it. */
export const lastReadiness = sharedValue(/** @type {{data: any, error: any}} */ ({ data: null, error: null }));

const PARTS = { store: "the store", cache: "Redis", clock: "the clock" };

/** The answer of `/readyz`, which has the same members whether the service is ready or not. @param {AbortSignal} signal */
async function readiness(signal) {
  try {
    return await load("readyz", { signal, isQuiet: true });
  } catch (error) {
    if (error instanceof RequestError && error.status === 503 && "ready" in error.problem) return error.problem;
    throw error;
  }
}

/** What is wrong, in words. The detail of a problem says what no part shows: that the service is shutting down. @param {Record<string, any>} state */
export function faults(state) {
  const found = Object.entries(PARTS)
    .filter(([part]) => typeof state[part] === "string" && !["up", "off"].includes(state[part]))
    .map(([part, name]) => `${name} is ${state[part]}`);
  if (typeof state.damage === "string") found.push(`the store is damaged: ${state.damage}`);
  return found.length || state.ready !== false ? found : [String(state.detail ?? "the service takes no requests").replace(/\.$/, "")];
}

/** The word for the state of the service. @param {Record<string, any> | null} state */
const wordOf = (state) => (state === null ? "..." : state.ready === false ? "not ready" : state.status);

export function ServiceState() {
  const { data, error } = useLoaded(readiness, [], EVERY_SECONDS);
  useEffect(() => {
    lastReadiness.value = { data, error };
  }, [data, error]);
  const status = error ? "out of reach" : wordOf(data);
  const before = useRef("");
  useEffect(() => {
    if (before.current && before.current !== "..." && before.current !== status) announce(`The service is ${status}.`);
    before.current = status;
  }, [status]);
  const detail = error ? "" : faults(data ?? {}).join(", ");
  const mark = status === "ready" ? "●" : status === "degraded" ? "▲" : "■";
  return html`<span class=${`service ${status === "ready" ? "good" : status === "degraded" ? "fair" : status === "..." ? "" : "bad"}`}>
    <span aria-hidden="true">${mark} </span>${status}${detail && `: ${detail}`}
  </span>`;
}
