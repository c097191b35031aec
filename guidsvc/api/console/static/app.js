// @ts-check
/** The frame of the console: log-in, navigation, the state of the service, and the curl command of the last request. */

import { html, render, useEffect, useLayoutEffect, useRef, useState } from "./preact.js";
import { hasKey, lastBody, lastCommand, onUnauthorized } from "./api.js";
import { About } from "./about.js";
import { announce, Announcements, CopyButton, Problem } from "./components.js";
import { forgetDrafts } from "./drafts.js";
import { Expiring } from "./expiring.js";
import { Guid } from "./guid.js";
import { Guids } from "./guids.js";
import { Keys } from "./keys.js";
import { Live } from "./live.js";
import { LogIn } from "./login.js";
import { Overview } from "./overview.js";
import { go, urlOf, usePlace } from "./router.js";
import { SecretDialog } from "./secret.js";
import { end, hasAccessControl, may, session, start, watchIdleness } from "./session.js";
import { ShortcutHelp, useShortcuts } from "./shortcuts.js";
import { ServiceState } from "./service_state.js";
import { toggleTheme } from "./theme.js";
import { guidFault, parseGuid } from "./values.js";

/** The panels, in the order of the navigation: their title, their component, and whether the caller may use them. */
const PANELS = {
  "": { title: "Overview", panel: Overview, isShown: () => true },
  guids: { title: "GUIDs", panel: Guids, isShown: () => may("read") || may("write") },
  expiring: { title: "Expiring", panel: Expiring, isShown: () => may("read") },
  live: { title: "Live", panel: Live, isShown: () => may("read") },
  keys: { title: "Keys", panel: Keys, isShown: () => may("admin") && hasAccessControl() },
  about: { title: "About", panel: About, isShown: () => true },
};

/** @type {(text: string) => void} */
let explainLogIn = () => {};

function App() {
  const caller = session.use();
  const place = usePlace();
  const [isAsked, setAsked] = useState(false);
  const [reason, setReason] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  explainLogIn = setReason;

  const ask = () => {
    setAsked(true);
    start().then(
      () => setError(null),
      (caught) => {
        setError(caught.status === 401 ? null : caught);
        if (caught.isTemporary) setTimeout(ask, Math.max(1, caught.retryAfter) * 1000);
      },
    );
  };
  useEffect(ask, []);
  useEffect(() => {
    const leave = (/** @type {string} */ why) => {
      if (!session.value && !hasKey()) return;
      end();
      setReason(why);
    };
    const stopWatching = watchIdleness(() => leave("You were away for 30 minutes, so the console has forgotten the key."));
    const ignore = onUnauthorized(() => leave("The service does not accept this key: it may have expired or been revoked."));
    return () => (stopWatching(), ignore());
  }, []);

  if (!caller && error) return html`<${Frame} title="guidsvc"><${Problem} error=${error} isRetried=${true} /><//>`;
  if (!caller) return isAsked ? html`<${Frame} title="Log in to guidsvc"><${LogIn} reason=${reason} onEntered=${() => setReason("")} /><//>` : null;
  return html`<${Console} place=${place} />`;
}

/** A page without navigation. @param {any} props */
function Frame({ title, children }) {
  useEffect(() => {
    document.title = title.endsWith("guidsvc") ? title : `${title} - guidsvc`;
  }, [title]);
  return html`<main class="frame"><h1 tabindex="-1">${title}</h1>${children}<${Announcements} /></main>`;
}

/** @param {{place: import("./router.js").Place}} props */
function Console({ place }) {
  const shown = Object.entries(PANELS).filter(([, { isShown }]) => isShown());
  const known = shown.find(([name]) => name === place.panel);
  const isGuid = place.panel === "guids" && place.id !== "";
  const title = isGuid ? `GUID ${place.id}` : known ? known[1].title : "Not here";
  const heading = useRef(null);
  useLayoutEffect(() => {
    document.title = `${title} - guidsvc`;
    /** @type {any} */ (heading.current)?.focus();
  }, [title]);
  useLayoutEffect(() => {
    lastBody.value = "";
    lastCommand.value = ""; // that of another panel; this one sends its own after this
  }, [place.panel, place.id]);
  const [isHelpOpen, setHelpOpen] = useState(false);
  const [isMenuOpen, setMenuOpen] = useState(false); // a wide screen shows the menu always
  const menuButton = useRef(null);
  useEffect(() => setMenuOpen(false), [place]);
  const closeMenu = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Escape" || !isMenuOpen) return;
    setMenuOpen(false);
    /** @type {any} */ (menuButton.current)?.focus();
  };
  useShortcuts(() => setHelpOpen(true));

  const Panel = known?.[1].panel;
  return html`
    <a class="skip" href="#main" onClick=${(/** @type {Event} */ event) => (event.preventDefault(), /** @type {any} */ (heading.current).focus())}>Skip to the content</a>
    <header onKeyDown=${closeMenu}>
      <a class="brand" href=${urlOf("")}>guidsvc</a>
      <${ServiceState} />
      <button type="button" class="small menu" ref=${menuButton} aria-expanded=${isMenuOpen} aria-controls="panels" onClick=${() => setMenuOpen(!isMenuOpen)}>Menu</button>
      <${Find} />
      <${Who} />
      <button type="button" class="small" onClick=${toggleTheme} title="Light or dark"><span aria-hidden="true">◐</span><span class="hidden">Light or dark</span></button>
      <button type="button" class="small" onClick=${() => setHelpOpen(true)}><span aria-hidden="true">?</span><span class="hidden">Keyboard help</span></button>
    </header>
    <nav id="panels" aria-label="Panels" onKeyDown=${closeMenu}>
      <ul onClick=${() => setMenuOpen(false)}>
        ${shown.map(([name, { title }]) => html`<li><a href=${urlOf(name)} aria-current=${name === place.panel ? "page" : undefined}>${title}</a></li>`)}
      </ul>
    </nav>
    <main id="main">
      <h1 tabindex="-1" ref=${heading} class=${isGuid ? "guid" : undefined}>${title}</h1>
      ${isGuid && known ? html`<${Guid} guid=${place.id} key=${place.id} />` : Panel ? html`<${Panel} query=${place.query} />` : html`<${Missing} panel=${place.panel} />`}
    </main>
    <${Curl} />
    <${Announcements} />
    ${isHelpOpen && html`<${ShortcutHelp} onClose=${() => setHelpOpen(false)} />`}
  `;
}

/** @param {{panel: string}} props */
function Missing({ panel }) {
  const isKnown = Object.hasOwn(PANELS, panel);
  return html`<p>${isKnown ? "Your key may not use this panel." : "The console has no such panel."} <a href=${urlOf("")}>Go to the overview</a></p>`;
}

/** The field that opens a GUID, in whatever notation it is pasted. */
function Find() {
  const [text, setText] = useState("");
  const [fault, setFault] = useState("");
  const find = (/** @type {Event} */ event) => {
    event.preventDefault();
    const guid = parseGuid(text);
    if (!guid) {
      setFault(text.trim() && `${guidFault(text)} To search by user, use the filters of GUIDs.`);
      return;
    }
    if (guid !== text.trim()) announce(`Taken as ${guid}.`);
    setText("");
    go(`guids/${guid}`);
  };
  return html`<form class="find" role="search" onSubmit=${find}>
    <label class="hidden" for="find">Find a GUID</label>
    <input id="find" type="search" placeholder="Find a GUID   /" value=${text} autocomplete="off" spellcheck="false"
      aria-describedby=${fault ? "find-fault" : undefined} aria-invalid=${fault ? "true" : undefined}
      onInput=${(/** @type {any} */ event) => (setText(event.currentTarget.value), setFault(""))} />
    ${fault && html`<p class="fault" id="find-fault" role="alert">${fault}</p>`}
  </form>`;
}

/** Whose key this is, what it may do, and how to leave. */
function Who() {
  const caller = session.value;
  if (!caller || !hasAccessControl()) return html`<span class="who faint">access control off</span>`;
  return html`<span class="who">
    <span>${caller.owner}: ${caller.scopes.join(" ")}</span>
    ${hasKey() && html`<button type="button" class="small" onClick=${() => (forgetDrafts(), end(), explainLogIn("The console has forgotten the key."))}>Log out</button>`}
  </span>`;
}

/** The request that the panel made last, as a command. */
function Curl() {
  const command = lastCommand.use();
  const body = lastBody.use();
  if (!command) return html`<footer></footer>`;
  return html`<footer aria-label="The last request, as a command"><span aria-hidden="true">$ </span><code tabindex="0">${command}</code><${CopyButton} text=${command} />${body && html`<${CopyButton} text=${body} label="Copy body.json" />`}</footer>`;
}

const root = /** @type {Element} */ (document.getElementById("app"));
root.replaceChildren();
render(html`<${App} /><${SecretDialog} />`, root);
