// @ts-check
/** The state of the service, in the header: ready, degraded and why, or out of reach. */

import { html, useEffect, useRef } from "./preact.js";
import { RequestError, load } from "./api.js";
import { announce, useLoaded } from "./components.js";

const EVERY_SECONDS = 5;
const NAMES = { store: "the store", cache: "Redis", disk: "the disk", file: "the database file", clock: "the clock", audit: "the audit log" };

/** The answer of `/readyz`, which has the same members whether the service is ready or not. @param {AbortSignal} signal */
export async function readiness(signal) {
  try {
    return await load("readyz", { signal, isQuiet: true });
  } catch (error) {
    if (error instanceof RequestError && error.status === 503 && "ready" in error.problem) return error.problem;
    throw error;
  }
}

/** What is wrong, in words. @param {Record<string, any>} state */
export function faults(state) {
  return Object.entries(state)
    .filter(([name, value]) => typeof value === "string" && name !== "status" && value !== "up")
    .map(([name, value]) => `${/** @type {Record<string, string>} */ (NAMES)[name] ?? name} is ${value}`);
}

export function ServiceState() {
  const { data, error } = useLoaded(readiness, [], EVERY_SECONDS);
  const status = error ? "out of reach" : (data?.status ?? "...");
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
