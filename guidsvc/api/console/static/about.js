// @ts-check
/** What this service is, what this key may do, and how to do the same without the console. */

import { html, useEffect } from "./preact.js";
import { load } from "./api.js";
import { Problem, Time, useLoaded } from "./components.js";
import { hasAccessControl, session, start } from "./session.js";
import { ShortcutChoice, ShortcutList } from "./shortcuts.js";
import { counted, grouped, visible } from "./values.js";

const LINKS = { docs: "API documentation, where you can send requests", "openapi.json": "the same for generators of clients", problems: "all errors, and what to do about each", metrics: "metrics for Prometheus", guid: "the list of GUIDs as a page without JavaScript" };

export function About() {
  const { data, error } = useLoaded((signal) => load("version", { signal }), []);
  const caller = session.use();
  useEffect(() => {
    start().catch(() => {}); // what is left of the limits; if it fails, the header says that the service is out of reach
  }, []);
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const key = hasAccessControl() ? '-H "Authorization: Bearer $KEY" ' : "";
  return html`
    <${Problem} error=${error} isRetried=${true} />
    ${data && html`<p>guidsvc ${data.version} keeps a registry of GUIDs that expire. This console uses its HTTP API and nothing else: the command at the foot of each page is the request that it made last.</p>`}
    <h2>You</h2>
    <${You} caller=${caller} />
    <h2>Where to go</h2>
    <dl>${Object.entries(LINKS).map(([path, text]) => html`<dt><a href=${path}>/${path}</a></dt><dd>${text}</dd>`)}</dl>
    <h2>The same without the console</h2>
    <p>With curl:</p>
    <pre tabindex="0"><code>${`curl ${key}-X PUT -d '{"user": "Cylance, Inc."}' ${base}/guid\ncurl ${key}"${base}/guid?sort=expire&limit=10"\ncurl ${key}-H 'Accept: application/x-ndjson' ${base}/guid > guids.ndjson`}</code></pre>
    <p>With Python:</p>
    <pre tabindex="0"><code>${`from guidsvc_client import Client\n\nwith Client("${base}"${key && ", key=os.environ[\"KEY\"]"}) as client:\n    record = client.create(user="Cylance, Inc.")`}</code></pre>
    <h2>Keyboard</h2>
    <${ShortcutList} />
    <${ShortcutChoice} />
  `;
}

/** @param {{caller: any}} props */
function You({ caller }) {
  if (!hasAccessControl()) return html`<p>Access control is off: everybody who can reach the service may do everything.</p>`;
  const { rate, quota } = caller;
  return html`<dl>
    <dt>Owner</dt><dd><bdi>${visible(caller.owner ?? "")}</bdi></dd>
    <dt>May</dt><dd>${caller.scopes.join(", ")}</dd>
    ${caller.id && html`<dt>Key</dt><dd><code>${caller.id}</code>${caller.note && html` <bdi>${visible(caller.note)}</bdi>`}</dd>`}
    <dt>Expires</dt><dd>${caller.expire ? html`<${Time} at=${caller.expire} isBoth=${true} />` : "never"}</dd>
    ${rate && html`<dt>Requests</dt><dd>${grouped(rate.left)} of ${grouped(rate.limit)} left in ${counted(rate.seconds, "second")}</dd>`}
    ${quota && html`<dt>GUIDs</dt><dd>${grouped(quota.live)} of ${grouped(quota.limit)}</dd>`}
  </dl>`;
}
