// @ts-check
/** Export and import: lines of JSON, in pieces, so that a large file needs little memory. */

import { html, useRef, useState } from "./preact.js";
import { loadLines, send } from "./api.js";
import { announce, Buttons, Dialog, onSubmit, Problem, useAction } from "./components.js";
import { counted, grouped } from "./values.js";

const MAX_LINES = 1000;
const MAX_CHARACTERS = 1024 * 1024;
const SHOWN_FAILURES = 10;
/** A failure whose detail speaks of a request, in the words of a file. @type {Record<string, string>} */
const FAILURES = { "precondition-failed": "the GUID exists already" };
const LINES = { "Content-Type": "application/x-ndjson" };

/** Save all GUIDs of a list as a file. @param {Record<string, string | undefined>} query */
export async function exportGuids(query) {
  // Only admins get a stream by expiry; the order of a file does not matter.
  const response = await send("guid", { query: { ...query, sort: undefined }, headers: { Accept: "application/x-ndjson" } });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await response.blob());
  link.download = `guids-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.ndjson`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  announce(`Exported to ${link.download}.`);
}

/**
 * The lines of a file, in groups that fit into one batch.
 * @param {File} file
 */
async function* groupsOf(file) {
  const reader = file.stream().pipeThrough(new TextDecoderStream()).getReader();
  /** @type {string[]} */
  let group = [];
  let [rest, size] = ["", 0];
  for (;;) {
    const { done, value } = await reader.read();
    const lines = done ? [rest] : (rest + value).split("\n");
    rest = done ? "" : /** @type {string} */ (lines.pop());
    for (const line of lines) {
      if (!line.trim()) continue;
      group.push(line);
      size += line.length;
      if (group.length >= MAX_LINES || size >= MAX_CHARACTERS) {
        yield group;
        [group, size] = [[], 0];
      }
    }
    if (done) break;
  }
  if (group.length) yield group;
}

/** @typedef {{lines: number, created: number, changed: number, failed: number, failures: {line: number, text: string}[]}} Tally */

/** @param {Tally} tally @param {any} result @param {number} line */
function count(tally, result, line) {
  if (result.status === 201) tally.created++;
  else if (result.status < 300) tally.changed++;
  else {
    tally.failed++;
    if (tally.failures.length < SHOWN_FAILURES) tally.failures.push({ line, text: FAILURES[result.problem?.code] ?? result.problem?.detail ?? result.problem?.title ?? `status ${result.status}` });
  }
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

  const transfer = async (/** @type {boolean} */ isDry) => {
    /** @type {Tally} */
    const tally = { lines: 0, created: 0, changed: 0, failed: 0, failures: [] };
    for await (const group of groupsOf(/** @type {File} */ (file))) {
      const body = group.map((line) => (isNewOnly ? withoutOverwriting(line) : line)).join("\n") + "\n";
      let place = 0;
      for await (const result of loadLines("guid:batch", { method: "POST", body, headers: { ...LINES, Prefer: "return=minimal" }, query: { validate_only: isDry ? "true" : "" } })) {
        if (result.status === undefined || place >= group.length) throw new Error(`The batch ended early, at line ${tally.lines + place + 1}: ${result.detail}`);
        count(tally, result, tally.lines + ++place);
      }
      tally.lines += group.length;
      setProgress(`${grouped(tally.lines)} lines ${isDry ? "checked" : "imported"}`);
    }
    return tally;
  };
  const check = () => run(async () => setChecked(await transfer(true)));
  const execute = () =>
    run(async () => {
      const tally = await transfer(false);
      setFinished(tally);
      announce(`${tally.created} created, ${tally.changed} changed, ${tally.failed} failed.`);
    });
  const choose = (/** @type {any} */ event) => (setFile(event.currentTarget.files[0] ?? null), setChecked(null));
  const shown = finished ?? checked;
  return html`<${Dialog} title=${finished ? "Imported" : checked ? `Import ${counted(checked.created + checked.changed, "GUID")}?` : "Import GUIDs"} onClose=${onClose} canEscape=${!isBusy}>
    <form onSubmit=${onSubmit(finished ? onClose : checked ? execute : check)}>
      ${!finished &&
      html`<div class="field">
          <label for="import-file">File of lines, as Export makes it</label>
          <input id="import-file" ref=${input} type="file" accept=".ndjson,.jsonl,application/x-ndjson" onChange=${choose} disabled=${isBusy} required=${!file} />
          <p class="faint">Each line is a record: guid, user, and optionally expire and metadata.</p>
        </div>
        <label class="check"><input type="checkbox" checked=${isNewOnly} disabled=${isBusy} onChange=${(/** @type {any} */ event) => (setNewOnly(event.currentTarget.checked), setChecked(null))} /> Create only; leave GUIDs that exist as they are</label>`}
      ${isBusy && html`<p role="status">${progress || "Reading ..."}</p>`}
      ${shown && html`<${TallyList} tally=${shown} isDone=${finished !== null} />`}
      <${Problem} error=${error} />
      <${Buttons} action=${finished ? "Close" : checked ? `Import ${counted(checked.created + checked.changed, "GUID")}` : "Check the file"} isBusy=${isBusy}
        isOff=${!finished && checked !== null && checked.created + checked.changed === 0} onCancel=${finished ? null : onClose} />
    </form>
  <//>`;
}

/** A line with the condition that its GUID does not exist yet. What is no object is left to the service to reject. @param {string} line */
function withoutOverwriting(line) {
  const text = line.trim();
  return /^\{\s*"/.test(text) && text.endsWith("}") ? `${text.slice(0, -1)},"if_none_match":"*"}` : line;
}

/** @param {{tally: Tally, isDone: boolean}} props */
function TallyList({ tally, isDone }) {
  const will = isDone ? "" : "will be ";
  return html`<ul>
    <li>${counted(tally.created, "GUID")} ${will}created</li>
    <li>${counted(tally.changed, "GUID")} ${will}changed</li>
    <li>${counted(tally.failed, "line")} ${isDone ? "failed" : "will fail"}${tally.failures.length ? ":" : ""}
      ${tally.failures.length > 0 && html`<ul>${tally.failures.map(({ line, text }) => html`<li>line ${line}: ${text}</li>`)}</ul>`}</li>
  </ul>`;
}

