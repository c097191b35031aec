// @ts-check
/** Who uses the console, and what they may do. */

import { sharedValue } from "./shared.js";
import { forgetKey, hasKey, load } from "./api.js";

/** @typedef {{access: string, scopes: string[], owner?: string, id?: string, expire?: string | null, note?: string, rate?: any, quota?: any}} Session */

const IDLE_MS = 30 * 60 * 1000;

/** The session: null before the service has told it. @type {import("./shared.js").Shared<Session | null>} */
export const session = sharedValue(/** @type {Session | null} */ (null));

/** Whether the caller has a scope. @param {string} scope */
export function may(scope) {
  const scopes = session.value?.scopes ?? [];
  return scopes.includes(scope) || scopes.includes("admin");
}

/** Whether there is access control: without it there are no keys to manage. */
export const hasAccessControl = () => session.value?.access !== "off";

/** Ask the service who the caller is. */
export async function start() {
  session.value = await load("keys/self", { isQuiet: true });
}

/** Forget the key, and ask for one again. */
export function end() {
  forgetKey();
  session.value = null;
}

/** End the session when nobody has touched the page for half an hour. @param {() => void} onIdle */
export function watchIdleness(onIdle) {
  let touched = Date.now();
  const touch = () => {
    touched = Date.now();
  };
  const check = () => {
    if (hasKey() && Date.now() - touched > IDLE_MS) onIdle();
  };
  for (const event of ["keydown", "pointerdown", "wheel"]) addEventListener(event, touch, { passive: true });
  const timer = setInterval(check, 10_000);
  document.addEventListener("visibilitychange", check);
  return () => clearInterval(timer);
}
