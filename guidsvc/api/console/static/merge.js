// @ts-check
/** Two changes of one GUID, merged member by member: its user, its expiry, and each key of its metadata. */

import { parseExactly } from "./values.js";

/** What a person edits: texts. @typedef {{user: string, expiry: string, metadata: string}} Draft */

/** The keys of metadata with their values as JSON. @param {string} text */
const entriesOf = (text) => new Map(text.trim() ? Object.entries(parseExactly(text)).map(([key, value]) => [key, JSON.stringify(value)]) : []);

/** The metadata with these keys. @param {[string, string][]} entries */
const textOf = (entries) => `{${entries.map(([key, value]) => `${JSON.stringify(key)}:${value}`).join(",")}}`;

/**
 * A member, and what became of it. A member that is absent is undefined.
 * @typedef {{name: string, mine?: string, theirs?: string, isMine: boolean, isTheirs: boolean}} Change
 */

/**
 * The members of three versions, compared.
 * @param {Draft} base what both began with
 * @param {Draft} mine
 * @param {Draft} theirs
 * @returns {Change[]}
 */
export function changes(base, mine, theirs) {
  const compared = (/** @type {string} */ name, /** @type {(string | undefined)[]} */ [old, my, their]) => ({ name, mine: my, theirs: their, isMine: my !== old, isTheirs: their !== old });
  const versions = [base, mine, theirs];
  const metadata = versions.map(({ metadata }) => entriesOf(metadata));
  const keys = new Set(metadata.flatMap((entries) => [...entries.keys()]));
  return [
    compared("User", versions.map(({ user }) => user)),
    compared("Expiry", versions.map(({ expiry }) => expiry)),
    ...[...keys].map((key) => compared(`Metadata: ${key}`, metadata.map((entries) => entries.get(key)))),
  ];
}

/** Whether both have changed a member, each to another value. @param {Change} change */
export const isConflict = ({ mine, theirs, isMine, isTheirs }) => isMine && isTheirs && mine !== theirs;

/**
 * Their version with my changes: of the metadata, only the keys that I changed.
 * @param {Draft} base
 * @param {Draft} mine
 * @param {Draft} theirs
 * @returns {Draft}
 */
export function merged(base, mine, theirs) {
  const [old, my, result] = [base, mine, theirs].map(({ metadata }) => entriesOf(metadata));
  for (const key of new Set([...old.keys(), ...my.keys()])) {
    const value = my.get(key);
    if (value === old.get(key)) continue;
    if (value === undefined) result.delete(key);
    else result.set(key, value);
  }
  const isSame = textOf([...result]) === textOf([...entriesOf(theirs.metadata)]);
  return {
    user: mine.user === base.user ? theirs.user : mine.user,
    expiry: mine.expiry === base.expiry ? theirs.expiry : mine.expiry,
    metadata: isSame ? theirs.metadata : textOf([...result]),
  };
}
