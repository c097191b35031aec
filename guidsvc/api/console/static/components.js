// @ts-check
/** What all panels are made of: dialogs, fields, problems, times, announcements, and data that loads again by itself. */

import { html, useEffect, useLayoutEffect, useRef, useState } from "./preact.js";
import { RequestError } from "./api.js";
import { exact, now, relative } from "./values.js";

/** @type {Set<(text: string) => void>} */
const announcementListeners = new Set();

/** Tell everybody what happened, by sight and to screen readers. @param {string} text */
export const announce = (text) => announcementListeners.forEach((listener) => listener(text));

const ANNOUNCEMENT_MS = 8000;
const FRESH_MS = 1000; // an action may say what it did, and go elsewhere

/** The last announcement. @param {{isHidden?: boolean}} props `isHidden`: for screen readers only */
export function Announcements({ isHidden = false }) {
  const [text, setText] = useState("");
  useEffect(() => {
    announcementListeners.add(setText);
    return () => announcementListeners.delete(setText);
  }, []);
  useEffect(() => {
    const timer = text ? setTimeout(() => setText(""), ANNOUNCEMENT_MS) : undefined;
    const saidAt = Date.now();
    const leave = () => Date.now() - saidAt > FRESH_MS && setText("");
    addEventListener("hashchange", leave);
    return () => (clearTimeout(timer), removeEventListener("hashchange", leave));
  }, [text]);
  return html`<div class=${isHidden ? "hidden" : "announcement"} role="status" aria-live="polite" data-empty=${!text}>${text}</div>`;
}

/**
 * Load data, again when `dependencies` change, and again by itself after an error that may pass.
 * @param {(signal: AbortSignal) => Promise<any>} loader
 * @param {unknown[]} dependencies
 * @param {number} [everySeconds] also load again so often, while the page is visible
 */
export function useLoaded(loader, dependencies, everySeconds = 0) {
  const [state, setState] = useState(/** @type {{data: any, error: any, of: unknown[]}} */ ({ data: null, error: null, of: dependencies }));
  const [round, setRound] = useState(0);
  const reload = () => setRound((count) => count + 1);
  useEffect(() => {
    const controller = new AbortController();
    let timer = 0;
    const again = (/** @type {number} */ seconds) => {
      timer = setTimeout(() => (document.hidden ? again(seconds) : reload()), seconds * 1000);
    };
    loader(controller.signal).then(
      (data) => {
        setState({ data, error: null, of: dependencies });
        if (everySeconds) again(everySeconds);
      },
      (error) => {
        if (controller.signal.aborted) return;
        // Data of something else must not stand beside the error.
        setState((before) => ({ data: dependencies.every((each, place) => each === before.of[place]) ? before.data : null, error, of: dependencies }));
        if (error.isTemporary) again(Math.max(1, error.retryAfter));
        else if (everySeconds && error.status !== 401) again(everySeconds);
      },
    );
    const look = () => everySeconds && !document.hidden && reload();
    document.addEventListener("visibilitychange", look);
    return () => {
      controller.abort();
      document.removeEventListener("visibilitychange", look);
      clearTimeout(timer);
    };
  }, [...dependencies, round]);
  return { ...state, reload };
}

/** An error, in words; one that may pass says that it is tried again. @param {{error: any, isRetried?: boolean}} props */
export function Problem({ error, isRetried = false }) {
  useEffect(() => {
    if (error && !isRetried) announce(""); // "Saved." must not stand beside it
  }, [error]);
  if (!error) return null;
  const problem = error instanceof RequestError ? error.problem : { detail: String(error.message ?? error) };
  return html`<div class="problem" role="alert">
    <strong>${problem.title ?? "That did not work"}.</strong> ${error.message}
    ${isRetried && error.isTemporary && html`<span> The console tries again by itself.</span>`}
    ${(problem.errors ?? []).length > 1 &&
    html`<ul>
      ${problem.errors.map((/** @type {any} */ each) => html`<li><code>${each.pointer ?? each.parameter ?? ""}</code> ${each.detail}</li>`)}
    </ul>`}
    ${problem.code &&
    html`<p class="faint">
      <a href=${`problems/${problem.code}`} target="_blank" rel="noopener">What ${problem.code} means</a>${problem.request_id && html`; request <code>${problem.request_id}</code>`}
    </p>`}
  </div>`;
}

const NEAR_SECONDS = 120;
const FAR_MS = 30_000;

/** A time: how far it is away, always as of now, and exactly. @param {{at: number | string, isBoth?: boolean}} props Unix seconds */
export function Time({ at, isBoth = false }) {
  const text = exact(at);
  const [, setRound] = useState(0);
  const isNear = Math.abs(Number(at) - now()) < NEAR_SECONDS;
  useEffect(() => {
    const timer = setInterval(() => setRound((round) => round + 1), isNear ? 1000 : FAR_MS);
    return () => clearInterval(timer);
  }, [isNear]);
  return html`<time datetime=${text.replace(" UTC", "Z").replace(" ", "T")} title=${text}>${relative(at)}${isBoth && html` <span class="faint">${text}</span>`}</time>`;
}

/**
 * A field with its label. The hint and the fault are read out with it. The fault is shown when somebody leaves the
 * field, or sends the form, which goes to the field.
 * @param {any} props
 */
export function Field({ label, name, value, onInput, hint = "", fault = "", type = "text", rows = 0, onBlur, ...rest }) {
  const id = `field-${name}`;
  const input = useRef(null);
  const [isLeft, setLeft] = useState(false);
  useLayoutEffect(() => /** @type {any} */ (input.current).setCustomValidity(fault), [fault]);
  const shown = isLeft ? fault : "";
  const described = [hint && `${id}-hint`, shown && `${id}-fault`].filter(Boolean).join(" ") || undefined;
  const common = {
    id, name, value, ref: input, "aria-describedby": described, "aria-invalid": shown ? "true" : undefined,
    onBlur: () => (setLeft(true), onBlur?.()),
    onInput: (/** @type {any} */ event) => onInput(event.currentTarget.value), ...rest,
  };
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${rows ? html`<textarea ...${common} rows=${rows} spellcheck="false"></textarea>` : html`<input ...${common} type=${type} autocomplete="off" spellcheck="false" />`}
    ${hint && html`<p class="faint" id=${`${id}-hint`}>${hint}</p>`}
    <p class="fault" id=${`${id}-fault`} aria-live="polite">${shown}</p>
  </div>`;
}

/** A choice of one of several values. @param {any} props */
export function Choice({ label, name, value, options, onInput, ...handlers }) {
  const id = `field-${name}`;
  return html`<div class="field" ...${handlers}>
    <label for=${id}>${label}</label>
    <select id=${id} name=${name} value=${value} onChange=${(/** @type {any} */ event) => onInput(event.currentTarget.value)}>
      ${Object.entries(options).map(([key, text]) => html`<option value=${key} selected=${key === value}>${text}</option>`)}
    </select>
  </div>`;
}

const REST_MS = 500;

/**
 * A choice that loads something. Arrow keys step through its values, so only the value at which they rest is loaded, or
 * the one that is chosen at Enter or when the focus leaves.
 * @param {any} props
 */
export function FilterChoice({ value, onInput, ...rest }) {
  const [chosen, setChosen] = useState(value);
  const isByKey = useRef(false);
  const applied = useRef(value); // the value follows a moment later, and must not undo the next choice
  const apply = () => chosen !== applied.current && onInput((applied.current = chosen));
  useEffect(() => {
    if (value !== applied.current) setChosen((applied.current = value));
  }, [value]);
  useEffect(() => {
    const timer = setTimeout(apply, isByKey.current ? REST_MS : 0);
    return () => clearTimeout(timer);
  }, [chosen]);
  const onKeyDown = (/** @type {KeyboardEvent} */ { key }) => ((isByKey.current = true), key === "Enter" && apply());
  const onPointerDown = () => (isByKey.current = false);
  return html`<${Choice} ...${rest} value=${chosen} onInput=${setChosen} onKeyDown=${onKeyDown} onPointerDown=${onPointerDown} onFocusOut=${apply} />`;
}

/** Go to the field of the next step of a dialog, or else to its title, unless somebody is in a field. @param {HTMLElement} dialog */
function focusStep(dialog) {
  const active = document.activeElement;
  if (active?.matches("input, select, textarea") && dialog.contains(active)) return;
  const field = dialog.querySelector("input:not([type=checkbox], [type=file]), textarea");
  const heading = /** @type {HTMLElement} */ (dialog.querySelector("h2"));
  heading.tabIndex = -1; // not before: a dialog that opens goes to its first field
  /** @type {HTMLElement} */ (field ?? heading).focus();
}

/**
 * A modal dialog. Focus goes into it, and back when it closes; Escape closes it. It has its own announcements, because
 * screen readers hear nothing outside it.
 * @param {any} props
 */
export function Dialog({ title, onClose, children, canEscape = true }) {
  const dialog = useRef(null);
  const shown = useRef(title);
  useLayoutEffect(() => {
    const element = /** @type {any} */ (dialog.current);
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    element.showModal();
    if (document.activeElement?.matches("button")) focusStep(element); // a held Enter must not press it
    return () => {
      element.close();
      if (before?.isConnected) before.focus();
      setTimeout(() => document.activeElement === document.body && document.querySelector("h1")?.focus());
    };
  }, []);
  useLayoutEffect(() => {
    if (shown.current !== title) focusStep(/** @type {any} */ (dialog.current));
    shown.current = title;
  }, [title]);
  const onCancel = (/** @type {Event} */ event) => {
    if (event.target !== event.currentTarget) return; // a chooser of files inside was cancelled
    event.preventDefault();
    if (canEscape) onClose();
  };
  const onClosed = (/** @type {any} */ { target, currentTarget: element }) => {
    if (target !== element || !element.isConnected || element.open) return;
    if (canEscape) onClose();
    else element.showModal(); // a second Escape closes a dialog without a question
  };
  return html`<dialog ref=${dialog} aria-labelledby="dialog-title" onCancel=${onCancel} onClose=${onClosed}>
    <h2 id="dialog-title">${title}</h2>
    ${children}
    <${Announcements} isHidden=${true} />
  </dialog>`;
}

/**
 * The buttons of a form: one that does it, which says while it is doing so, and one that gives up.
 * @param {any} props
 */
export function Buttons({ action, isBusy = false, isOff = false, onCancel, isDangerous = false }) {
  return html`<div class="buttons">
    <button type="submit" class=${isDangerous ? "danger" : "primary"} disabled=${isOff} aria-disabled=${isBusy ? "true" : undefined}>${isBusy ? "Wait ..." : action}</button>
    ${onCancel && html`<button type="button" onClick=${onCancel}>Cancel</button>`}
  </div>`;
}

/**
 * Run an action of a form: busy while it runs, with its error if it fails.
 * @returns {{isBusy: boolean, error: any, run: (action: () => Promise<void>) => Promise<void>}}
 */
export function useAction() {
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(/** @type {any} */ (null));
  const isRunning = useRef(false); // a button that is disabled while it runs would lose the focus
  const run = async (/** @type {() => Promise<void>} */ action) => {
    if (isRunning.current) return;
    isRunning.current = true;
    setBusy(true);
    setError(null);
    try {
      await action();
    } catch (caught) {
      setError(caught);
    } finally {
      isRunning.current = false;
      setBusy(false);
    }
  };
  return { isBusy, error, run };
}

/** A handler of `submit` that does not leave the page. @param {() => void} action */
export const onSubmit = (action) => (/** @type {Event} */ event) => {
  event.preventDefault();
  action();
};

/** A button that copies a text. @param {{text: string, label?: string}} props */
export function CopyButton({ text, label = "Copy" }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      announce("The browser does not allow copying here. Select the text, and copy it.");
      return;
    }
    announce("Copied.");
  };
  return html`<button type="button" class="small" onClick=${copy}>${label}</button>`;
}

/** The state of a GUID or a key: a word and a mark, never color alone. @param {{state: string}} props */
export function State({ state }) {
  const mark = { live: "●", expired: "○", revoked: "✕" }[state] ?? "";
  return html`<span class=${`state ${state}`}><span aria-hidden="true">${mark} </span>${state}</span>`;
}
