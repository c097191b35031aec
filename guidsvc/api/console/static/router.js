// @ts-check
/** The place in the console: its panel, its GUID, and its filters, all in the fragment of the URL. */

import { useEffect, useState } from "./preact.js";

/** @typedef {{panel: string, id: string, query: Record<string, string>}} Place */

/** @returns {Place} */
export function currentPlace() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [panel = "", id = ""] = path.split("/");
  return { panel, id: decoded(id), query: Object.fromEntries(new URLSearchParams(query)) };
}

/** Text without its percent escapes, or as it is if one of them is malformed. @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/**
 * The URL of a place.
 * @param {string} path such as `guids`
 * @param {Record<string, string>} [query] without members that are empty
 */
export function urlOf(path, query = {}) {
  const text = new URLSearchParams(Object.entries(query).filter(([, value]) => value)).toString();
  return `#/${path}${text && `?${text}`}`;
}

/** Go to a place. @param {string} path @param {Record<string, string>} [query] */
export function go(path, query) {
  location.hash = urlOf(path, query);
}

/** Go to the same panel with another filter, without a step in the history. @param {string} path @param {Record<string, string>} query */
export function replace(path, query) {
  location.replace(urlOf(path, query));
}

/** The current place; the component is drawn again when it changes. @returns {Place} */
export function usePlace() {
  const [place, setPlace] = useState(currentPlace);
  useEffect(() => {
    const update = () => setPlace(currentPlace());
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return place;
}
