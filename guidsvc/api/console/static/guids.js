// @ts-check
/** The list of GUIDs: filters, pages, and work on many at once. */

import { html, useEffect, useState } from "./preact.js";
import { loadExactly } from "./api.js";
import { BulkBar } from "./bulk.js";
import { Field, FilterChoice, Problem, State, Time, announce, useLoaded } from "./components.js";
import { NewGuid } from "./new_guid.js";
import { PageFoot, usePages } from "./pages.js";
import { currentPlace, go, replace, urlOf } from "./router.js";
import { hasAccessControl, may } from "./session.js";
import { exportGuids, ImportGuids, readAll } from "./transfer.js";
import { counted, grouped, isRevoked, now, stateOf, visible } from "./values.js";

/** @typedef {{guid: string, expire: string, user: string, owner?: string, version: string, state: string, renew_at?: string | null, metadata?: object}} Listed */

const PAGE_SIZES = { 25: "25", 50: "50", 100: "100" };
const PAGE_SIZE = "50";
const MAX_SELECTED = 1000;
const SOON_SECONDS = 3600;
const STATES = { live: "live", expired: "expired", all: "all" };
const WITHIN = { "": "any time", "1h": "within 1 hour", "24h": "within 24 hours", "7d": "within 7 days", "30d": "within 30 days" };
const SORTS = { "": "GUID", expire: "expiry, soonest first" };

/** The query of a list, without the part that selects a page. @param {Record<string, string>} filters */
function listQuery({ user, owner, state, within, sort }) {
  return { user, owner, state: state || "live", expires_before: within && `+${within}`, sort };
}

/** @param {{query: Record<string, string>}} props */
export function Guids({ query }) {
  const filter = JSON.stringify(query);
  const pages = usePages(filter);
  const { cursor } = pages;
  const [selected, setSelected] = useState(/** @type {Map<string, Listed>} */ (new Map()));
  const [dialog, setDialog] = useState("");
  useEffect(() => setSelected(new Map()), [filter]);

  const [counting, setCounting] = useState(/** @type {{filter: string, total: number} | null} */ (null));
  const total = counting?.filter === filter ? counting.total : null;

  const limit = Object.hasOwn(PAGE_SIZES, query.limit ?? "") ? query.limit : PAGE_SIZE;
  const list = useLoaded(
    (signal) =>
      may("read")
        ? loadExactly("guid", { signal, query: { ...listQuery(query), view: "full", limit, cursor }, headers: total !== null ? {} : { Prefer: "return=total-count" } })
        : Promise.resolve({ items: [], next: null }),
    [filter, cursor],
  );
  useEffect(() => {
    if (list.data?.total !== undefined) setCounting({ filter, total: list.data.total });
  }, [list.data]);

  /** @type {Listed[]} */
  const rows = list.data?.items ?? [];
  const change = (/** @type {Record<string, string>} */ members) => replace("guids", { ...currentPlace().query, ...members });
  const canSelectAll = total !== null && total > selected.size && total <= MAX_SELECTED && rows.length > 0 && rows.every(({ guid }) => selected.has(guid));
  const selectAll = () =>
    readAll({ ...listQuery(query), view: "full", limit: String(MAX_SELECTED) }).then(
      (all) => JSON.stringify(currentPlace().query) === filter && setSelected(new Map(all.map((/** @type {Listed} */ row) => [row.guid, row]))),
      (error) => announce(`They could not be selected: ${error.message}`),
    );
  const done = () => {
    setSelected(new Map());
    setDialog("");
    setCounting(null);
    list.reload();
  };
  return html`
    <div class="tools">
      ${may("write") && html`<button type="button" class="primary" data-shortcut="n" onClick=${() => setDialog("new")}>New GUID</button>`}
      ${may("write") && html`<button type="button" onClick=${() => setDialog("import")}>Import</button>`}
      ${may("read") && html`<${ExportButton} query=${query} total=${total} />`}
    </div>
    ${may("read") && html`<${Filters} query=${query} onChange=${change} />`}
    <${Problem} error=${list.error} isRetried=${true} />
    <${BulkBar} selected=${selected} onClear=${() => setSelected(new Map())} onDone=${done}>
      ${canSelectAll && html`<button type="button" onClick=${selectAll}>Select all ${grouped(Number(total))} that match</button>`}
    <//>
    ${may("read") &&
    html`<${Table} rows=${rows} selected=${selected} onSelect=${setSelected} isLoaded=${list.data !== null} isLater=${pages.start > 0} hasFailed=${list.error !== null}
        sort=${query.sort ?? ""} onSort=${(/** @type {string} */ sort) => change({ sort })} />
      <${PageFoot} pages=${pages} list=${list} thing="GUID" total=${total} onTurned=${() => document.querySelector("h1")?.focus()}>
        <${FilterChoice} label="GUIDs per page" name="limit" value=${limit} options=${PAGE_SIZES} onInput=${(/** @type {string} */ chosen) => change({ limit: chosen === PAGE_SIZE ? "" : chosen })} />
      <//>`}
    ${dialog === "new" && html`<${NewGuid} onClose=${() => setDialog("")} onCreated=${(/** @type {string} */ guid) => go(`guids/${guid}`)} />`}
    ${dialog === "import" && html`<${ImportGuids} onClose=${() => (setDialog(""), setCounting(null), list.reload())} />`}
  `;
}

/** @param {{query: Record<string, string>, onChange: (members: Record<string, string>) => void}} props */
function Filters({ query, onChange }) {
  const [user, setUser] = useState(query.user ?? "");
  const [owner, setOwner] = useState(query.owner ?? "");
  useEffect(() => (setUser(query.user ?? ""), setOwner(query.owner ?? "")), [query.user, query.owner]);
  const apply = (/** @type {Event} */ event) => (event.preventDefault(), onChange({ user, owner }));
  const isFiltered = Object.values(query).some(Boolean);
  return html`<form class="filters" aria-label="Filters" onSubmit=${apply}>
    <${Field} label="User" name="user" placeholder="the whole name" value=${user} onInput=${setUser} onBlur=${() => user !== (query.user ?? "") && onChange({ user, owner })} />
    ${may("admin") && hasAccessControl() &&
    html`<${Field} label="Owner" name="owner" value=${owner} onInput=${setOwner} onBlur=${() => owner !== (query.owner ?? "") && onChange({ user, owner })} />`}
    <${FilterChoice} label="State" name="state" value=${query.state ?? "live"} options=${STATES} onInput=${(/** @type {string} */ state) => onChange({ state: state === "live" ? "" : state })} />
    <${FilterChoice} label="Expires" name="within" value=${query.within ?? ""} options=${WITHIN} onInput=${(/** @type {string} */ within) => onChange({ within })} />
    <${FilterChoice} label="Sort by" name="sort" value=${query.sort ?? ""} options=${SORTS} onInput=${(/** @type {string} */ sort) => onChange({ sort })} />
    <button type="submit" class="hidden" tabindex="-1">Apply</button>
    ${isFiltered && html`<button type="button" onClick=${() => go("guids")}>Clear</button>`}
  </form>`;
}

/**
 * A table of GUIDs, with a box for each, so that several can be worked on at once.
 * @param {{rows: Listed[], selected: Map<string, Listed>, onSelect: (selected: Map<string, Listed>) => void, sort?: string, onSort?: (sort: string) => void, isLoaded: boolean, isLater?: boolean, hasFailed?: boolean}} props `isLater`: whether pages come before this one
 */
export function Table({ rows, selected, onSelect, isLoaded, isLater = false, hasFailed = false, sort, onSort }) {
  if (!rows.length && hasFailed) return null;
  if (!rows.length) return isLoaded ? html`<p class="empty">${isLater ? "This page has no GUIDs any more." : "No GUID matches."}</p>` : html`<p class="empty">Loading ...</p>`;
  const canSelect = may("write") || may("delete");
  const hasOwner = rows.some((row) => row.owner) && may("admin");
  const set = (/** @type {Listed[]} */ changed, /** @type {boolean} */ isSelected) => {
    const next = new Map(selected);
    for (const row of changed) isSelected ? next.set(row.guid, row) : next.delete(row.guid);
    if (next.size > MAX_SELECTED) announce(`At most ${grouped(MAX_SELECTED)} GUIDs can be selected. For more, use a batch of lines, as the page About shows.`);
    else onSelect(next);
  };
  const checked = (/** @type {any} */ event) => event.currentTarget.checked;
  const areAllSelected = rows.every(({ guid }) => selected.has(guid));
  return html`<div class="scroll" role="region" aria-label="GUIDs" tabindex="0"><table>
    <thead><tr>
      ${canSelect && html`<th scope="col" class="box"><input type="checkbox" aria-label="Select this page" checked=${areAllSelected} onChange=${(/** @type {any} */ event) => set(rows, checked(event))} /></th>`}
      <${SortHeading} name="GUID" by="" sort=${sort} onSort=${onSort} /><th scope="col">User</th>${hasOwner && html`<th scope="col">Owner</th>`}<${SortHeading} name="Expires" by="expire" sort=${sort} onSort=${onSort} /><th scope="col">State</th>
    </tr></thead>
    <tbody>
      ${rows.map((row) => html`<tr key=${row.guid}>
        ${canSelect && html`<td class="box"><input type="checkbox" aria-label=${`Select ${row.guid}`} checked=${selected.has(row.guid)} onChange=${(/** @type {any} */ event) => set([row], checked(event))} /></td>`}
        <th scope="row"><a href=${urlOf(`guids/${row.guid}`)}><code>${row.guid}</code></a></th>
        <td data-name="User"><bdi>${visible(row.user)}</bdi></td>
        ${hasOwner && html`<td data-name="Owner"><bdi>${visible(row.owner ?? "")}</bdi></td>`}
        <td data-name="Expires">${isRevoked(row) ? "" : html`<${Time} at=${row.expire} />`}${row.state === "live" && Number(row.expire) - now() < SOON_SECONDS ? html` <strong title="within an hour">!</strong>` : ""}</td>
        <td data-name="State"><${State} state=${stateOf(row)} /></td>
      </tr>`)}
    </tbody>
  </table></div>`;
}

/** The heading of a column by which the list can be sorted. @param {{name: string, by: string, sort?: string, onSort?: (sort: string) => void}} props */
function SortHeading({ name, by, sort, onSort }) {
  if (!onSort) return html`<th scope="col">${name}</th>`;
  const isSorted = by === sort;
  return html`<th scope="col" aria-sort=${isSorted ? "ascending" : undefined}><button type="button" class="sort" onClick=${() => onSort(by)}>${name}${isSorted && html`<span aria-hidden="true"> ▲</span>`}</button></th>`;
}

/** @param {{query: Record<string, string>, total: number | null}} props */
function ExportButton({ query, total }) {
  const [isBusy, setBusy] = useState(false);
  const run = async () => {
    if (isBusy) return;
    setBusy(true);
    try {
      await exportGuids(listQuery(query));
    } catch (error) {
      announce(`The export failed: ${/** @type {Error} */ (error).message}`);
    } finally {
      setBusy(false);
    }
  };
  return html`<button type="button" aria-disabled=${isBusy ? "true" : undefined} onClick=${run}>${isBusy ? "Exporting ..." : total === null ? "Export" : `Export ${counted(total, "GUID")}`}</button>`;
}
