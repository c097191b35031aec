// @ts-check
/** What people have entered and not sent. It is in the memory of the page only, and outlives the form, also when the key ends. */

import { html, useState } from "./preact.js";
import { announce } from "./components.js";
import { session } from "./session.js";

const MAX_DRAFTS = 20;

/** @type {Map<string, any>} the newest last */
const drafts = new Map();

/** Nobody else who logs in gets the draft. @param {string} name */
const keyOf = (name) => JSON.stringify([session.value?.owner ?? "", name]);

/** Whether something was entered in a form and not sent. @param {string} name of the form */
export const hasDraft = (name) => drafts.has(keyOf(name));

/** Forget all drafts. */
export const forgetDrafts = () => drafts.clear();

/**
 * The state of a form, as it was when the form closed.
 * @template T
 * @param {string} name of the form
 * @param {T} initial
 * @returns {{draft: T, setDraft: (draft: T) => void, forget: () => void, layAside: () => void, isOld: boolean}}
 */
export function useDraft(name, initial) {
  const [key] = useState(() => keyOf(name));
  const [isOld] = useState(drafts.has(key));
  const [draft, setState] = useState(/** @type {T} */ (drafts.get(key) ?? initial));
  const forget = () => void drafts.delete(key);
  const setDraft = (/** @type {T} */ next) => {
    forget();
    if (JSON.stringify(next) !== JSON.stringify(initial)) drafts.set(key, next);
    for (const oldest of [...drafts.keys()].slice(0, -MAX_DRAFTS)) drafts.delete(oldest);
    setState(next);
  };
  const layAside = () => drafts.has(key) && announce("What you entered is kept: open the form again to go on with it.");
  return { draft, setDraft, forget, layAside, isOld };
}

/** Says that the form shows what was entered before. @param {{isOld: boolean}} props */
export const DraftNote = ({ isOld }) => isOld && html`<p>This is what you entered before. Cancel discards it.</p>`;
