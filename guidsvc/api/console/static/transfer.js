// @ts-check
/** Export and import: lines of JSON, in pieces, so that a large file needs little memory. */

import { html, useEffect, useRef, useState } from "./preact.js";
import { loadLines, parsed, send } from "./api.js";
import { announce, Buttons, Dialog, onSubmit, Problem, useAction } from "./components.js";
import { counted, grouped, parseExactly } from "./values.js";

const MAX_LINES = 1000;
const MAX_CHARACTERS = 1024 * 1024;
const SHOWN_FAILURES = 10;
const NEWLINE = 10;
const LINES = { "Content-Type": "application/x-ndjson" };
const CONDITIONS = ["op", "if_match", "if_none_match"];

/** Save all GUIDs of a list as a file. @param {Record<string, string | undefined>} query */
export async function exportGuids(query) {
  // Only admins get a stream by expiry; the order of a file does not matter.
  const response = await send("guid", { query: { ...query, sort: undefined }, headers: { Accept: LINES["Content-Type"] } });
  const { lines, blob } = await linesOf(response);
  save(blob, lines);
}

/** Save selected GUIDs as the list showed them, with the members that an import takes. @param {any[]} records */
export function exportSelected(records) {
  const lines = records.map(({ guid, expire, user, metadata }) => `${JSON.stringify({ guid, expire, user, metadata })}\n`);
  save(new Blob(lines, { type: LINES["Content-Type"] }), lines.length);
}

/** The records of a list, in any order. @param {Record<string, string | undefined>} query with a limit @returns {Promise<any[]>} */
export async function readAll(query) {
  const response = await send("guid", { query: { ...query, sort: undefined }, headers: { Accept: LINES["Content-Type"] } });
  return (await response.text()).split("\n").filter(Boolean).map((line) => parsed(line, response, parseExactly));
}

/** Save a file. @param {Blob} blob @param {number} lines */
function save(blob, lines) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `guids-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.ndjson`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  announce(`Exported ${counted(lines, "GUID")} to ${link.download}.`);
}

/** The body of a response, and how many lines it has. @param {Response} response */
async function linesOf(response) {
  const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (response.body).getReader();
  const parts = [];
  let lines = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { lines, blob: new Blob(parts, { type: LINES["Content-Type"] }) };
    parts.push(value);
    for (const byte of value) if (byte === NEWLINE) lines++;
  }
}

/** A line of a file, with its number, which counts empty lines, too, and why it cannot be imported. @typedef {{text: string, number: number, fault: string}} Line */

/**
 * The lines of a file that are not empty, in groups that fit into one batch.
 * @param {File} file
 */
async function* groupsOf(file) {
  const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
  /** @type {Line[]} */
  let group = [];
  let [rest, size, number] = ["", 0, 0];
  for (;;) {
    const { done, value } = await reader.read();
    const lines = done ? [rest] : (rest + value).split("\n");
    rest = done ? "" : /** @type {string} */ (lines.pop());
    for (const text of lines) {
      number++;
      if (!text.trim()) continue;
      group.push({ text, number, fault: lineFault(text) });
      size += text.length;
      if (group.length >= MAX_LINES || size >= MAX_CHARACTERS) {
        yield group;
        [group, size] = [[], 0];
      }
    }
    if (done) break;
  }
  if (group.length) yield group;
}

/** Why a line cannot be imported; nothing if it is a record. It is parsed, because names may have escapes. @param {string} text */
function lineFault(text) {
  const members = objectOf(text);
  if (!members) return "must be a JSON object, such as an export has";
  const found = CONDITIONS.filter((name) => Object.hasOwn(members, name));
  return found.length ? `has ${found.join(", ")}; remove ${found.length > 1 ? "them" : "it"}: a line is a record, and "Create only" is for all lines` : "";
}

/** The JSON object of a line, or null if it has none. @param {string} text */
function objectOf(text) {
  try {
    const value = JSON.parse(text.trim());
    return typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}

/** @typedef {{lines: number, created: number, changed: number, skipped: number, failed: number, failures: {line: number, text: string}[]}} Tally */

/** @param {Tally} tally @param {any} result @param {number} line */
function addResult(tally, result, line) {
  if (result.status === 201) tally.created++;
  else if (result.status < 300) tally.changed++;
  else if (result.problem?.code === "precondition-failed") tally.skipped++;
  else addFailure(tally, line, result.problem?.detail ?? result.problem?.title ?? `status ${result.status}`);
}

/** @param {Tally} tally @param {number} line @param {string} text */
function addFailure(tally, line, text) {
  tally.failed++;
  if (tally.failures.length < SHOWN_FAILURES) tally.failures.push({ line, text });
}

/**
 * Send lines as one batch, and return a result for each.
 * @param {Line[]} lines
 * @param {boolean} isNewOnly
 * @param {import("./api.js").Options} options
 */
async function sendLines(lines, isNewOnly, options) {
  const results = /** @type {any[]} */ ([]);
  if (!lines.length) return results;
  const endedEarly = (/** @type {string} */ reason) => new Error(`The batch ended early, at line ${lines[Math.min(results.length, lines.length - 1)].number}: ${reason}`);
  const body = lines.map(({ text }) => (isNewOnly ? withoutOverwriting(text) : text)).join("\n") + "\n";
  for await (const result of loadLines("guid:batch", { method: "POST", body, headers: { ...LINES, Prefer: "return=minimal" }, ...options })) {
    if (result.status === undefined || results.length >= lines.length) throw endedEarly(result.detail);
    results.push(result);
  }
  if (results.length < lines.length) throw endedEarly("it has no result.");
  return results;
}

/** @param {{onClose: () => void}} props */
export function ImportGuids({ onClose }) {
  const input = useRef(null);
  const [file, setFile] = useState(/** @type {File | null} */ (null));
  const [isNewOnly, setNewOnly] = useState(true);
  const [checked, setChecked] = useState(/** @type {Tally | null} */ (null));
  const [finished, setFinished] = useState(/** @type {Tally | null} */ (null));
  const [progress, setProgress] = useState("");
  const { isBusy, error, run } = useAction();

  const checking = useRef(new AbortController());
  useEffect(() => () => checking.current.abort(), []);

  const transfer = async (/** @type {boolean} */ isDry) => {
    /** @type {Tally} */
    const tally = { lines: 0, created: 0, changed: 0, skipped: 0, failed: 0, failures: [] };
    for await (const group of groupsOf(/** @type {File} */ (file))) {
      const valid = group.filter(({ fault }) => !fault);
      const results = await sendLines(valid, isNewOnly, { signal: isDry ? checking.current.signal : undefined, query: { validate_only: isDry ? "true" : "" } });
      for (const { number, fault } of group) {
        if (fault) addFailure(tally, number, fault);
        else addResult(tally, results.shift(), number);
      }
      tally.lines += group.length;
      setProgress(`${counted(tally.lines, "line")} ${isDry ? "checked" : "imported"}`);
    }
    return tally;
  };
  const check = () => run(async () => setChecked(await transfer(true)));
  const execute = () =>
    run(async () => {
      const tally = await transfer(false);
      setFinished(tally);
      announce(`${grouped(tally.created)} created, ${grouped(tally.changed)} changed, ${grouped(tally.failed)} failed.`);
    });
  const choose = (/** @type {any} */ event) => (setFile(event.currentTarget.files[0] ?? null), setChecked(null));
  const shown = finished ?? checked;
  const count = checked ? checked.created + checked.changed : 0;
  const title = finished ? "Imported" : !checked ? "Import GUIDs" : count ? `Import ${counted(count, "GUID")}?` : "The file has no GUID to import";
  const isImporting = isBusy && checked !== null;
  return html`<${Dialog} title=${title} onClose=${onClose} canEscape=${!isImporting}>
    <form onSubmit=${onSubmit(finished ? onClose : checked ? execute : check)}>
      ${!finished &&
      html`<div class="field">
          <label for="import-file">File with one GUID per line, as Export writes it</label>
          <input id="import-file" ref=${input} type="file" accept=".ndjson,.jsonl,application/x-ndjson" onChange=${choose} disabled=${isBusy} required=${!file} />
          <p class="faint">Each line is a JSON object with the members guid and user, and optionally expire and metadata.</p>
        </div>
        <label class="check"><input type="checkbox" checked=${isNewOnly} disabled=${isBusy} onChange=${(/** @type {any} */ event) => (setNewOnly(event.currentTarget.checked), setChecked(null))} /> Create only; leave GUIDs that exist as they are</label>`}
      ${isBusy && html`<p role="status">${progress || "Reading ..."}</p>`}
      ${shown && html`<${TallyList} tally=${shown} isDone=${finished !== null} />`}
      <${Problem} error=${error} />
      <${Buttons} action=${finished ? "Close" : checked ? (count ? `Import ${counted(count, "GUID")}` : "Import") : "Check the file"} isBusy=${isBusy}
        isOff=${!finished && checked !== null && count === 0} onCancel=${finished || isImporting ? null : onClose} />
    </form>
  <//>`;
}

/** A line with the condition that its GUID does not exist yet. An empty object is left to the service to reject. @param {string} line */
function withoutOverwriting(line) {
  const text = line.trim();
  return /^\{\s*"/.test(text) && text.endsWith("}") ? `${text.slice(0, -1)},"if_none_match":"*"}` : line;
}

/** @param {{tally: Tally, isDone: boolean}} props */
function TallyList({ tally, isDone }) {
  const will = isDone ? "" : "will be ";
  return html`<ul>
    <li>${counted(tally.created, "GUID")} ${will}created</li>
    ${tally.changed > 0 && html`<li>${counted(tally.changed, "GUID")} ${will}changed</li>`}
    ${tally.skipped > 0 && html`<li>${counted(tally.skipped, "line")} ${will}skipped, because the GUID exists already</li>`}
    <li>${counted(tally.failed, "line")} ${isDone ? "failed" : "will fail"}${tally.failures.length ? ":" : ""}
      ${tally.failures.length > 0 && html`<ul>${tally.failures.map(({ line, text }) => html`<li>line ${line}: ${text}</li>`)}</ul>`}</li>
  </ul>`;
}

