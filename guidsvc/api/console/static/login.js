// @ts-check
/** The field for the key. */

import { html, useEffect, useRef, useState } from "./preact.js";
import { forgetKey, useKey } from "./api.js";
import { Buttons, Field, onSubmit, Problem, useAction } from "./components.js";
import { start } from "./session.js";

/** A key as it was pasted, maybe with the quotes of a file of settings. @param {string} text */
const withoutQuotes = (text) => text.trim().replace(/^(["'`])(.*)\1$/, "$2").trim();

/** @param {{reason: string, onEntered: () => void}} props */
export function LogIn({ reason, onEntered }) {
  const [secret, setSecret] = useState("");
  const [isKept, setKept] = useState(false);
  const { isBusy, error, run } = useAction();
  const form = useRef(null);
  useEffect(() => /** @type {any} */ (form.current).querySelector("input").focus(), []);
  const enter = () =>
    run(async () => {
      const pasted = withoutQuotes(secret);
      if (!/^[\x21-\x7e]+$/.test(pasted)) throw new Error("A key or token has only letters, digits and signs of ASCII, and no spaces. Copy it again.");
      useKey(pasted, isKept);
      try {
        await start();
        onEntered();
      } catch (caught) {
        forgetKey();
        throw caught;
      }
    });
  return html`<form ref=${form} onSubmit=${onSubmit(enter)}>
    ${reason && !error && !isBusy && html`<p role="status">${reason}</p>`}
    <${Field} label="API key or token" name="key" type="password" required value=${secret} onInput=${setSecret}
      hint="It begins with gs_. An operator makes one with: python pdapt.py keys create --owner you --scopes read,write" />
    <label class="check"><input type="checkbox" checked=${isKept} onChange=${(/** @type {any} */ event) => setKept(event.currentTarget.checked)} />
      Keep it until this tab closes. Otherwise a reload asks for it again.</label>
    <${Buttons} action="Log in" isBusy=${isBusy} />
    <${Problem} error=${error} />
  </form>`;
}
