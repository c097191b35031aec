// @ts-check
/** The secret of a new key. The service shows it only once, so it stays on the page until somebody has copied it. */

import { html, useEffect, useState } from "./preact.js";
import { Buttons, CopyButton, Dialog, onSubmit } from "./components.js";
import { session } from "./session.js";
import { sharedValue } from "./shared.js";

/** @typedef {{id: string, key: string}} NewSecret */

/** The secret that nobody has copied yet. It outlives the panel that asked for it. */
export const newSecret = sharedValue(/** @type {NewSecret | null} */ (null));

/** The dialog of the new secret, while there is one. Leaving the page asks first. */
export function SecretDialog() {
  const secret = newSecret.use();
  useEffect(() => {
    if (!secret) return;
    const ask = (/** @type {Event} */ event) => event.preventDefault();
    addEventListener("beforeunload", ask);
    return () => removeEventListener("beforeunload", ask);
  }, [secret]);
  return secret && html`<${Secret} of=${secret} key=${secret.key} />`;
}

/** @param {{of: NewSecret}} props */
function Secret({ of }) {
  const [isSaved, setSaved] = useState(false);
  const close = () => {
    newSecret.value = null;
  };
  const isOwn = of.id === session.value?.id;
  return html`<${Dialog} title="Copy the key now" onClose=${close} canEscape=${isSaved}>
    <p>The service does not show it again.${isOwn && " It is the one that this page uses: log in with it before the old one ends."}</p>
    <p class="secret"><code tabindex="0">${of.key}</code> <${CopyButton} text=${of.key} /></p>
    <form onSubmit=${onSubmit(close)}>
      <label class="check"><input type="checkbox" checked=${isSaved} onChange=${(/** @type {any} */ event) => setSaved(event.currentTarget.checked)} /> I have copied the key</label>
      <${Buttons} action="Close" isOff=${!isSaved} />
    </form>
  <//>`;
}
