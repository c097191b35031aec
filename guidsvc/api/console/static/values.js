// @ts-check
/** Times, durations, GUIDs and JSON, as people read and write them. */

/** @type {Record<string, number>} */
const UNITS = { w: 604800, d: 86400, h: 3600, m: 60, s: 1 };
const MAX_EXPIRE = 253402300799; // the year 9999

/** The current time in Unix seconds. */
export const now = () => Date.now() / 1000;

/** A number with separators between its thousands. @param {number} value */
export const grouped = (value) => value.toLocaleString("en-US");

/** A time in UTC, to the second. @param {number | string} seconds Unix seconds */
export function exact(seconds) {
  return new Date(Number(seconds) * 1000).toISOString().replace("T", " ").replace(/\.\d+Z$/, " UTC");
}

/** A duration in its largest unit. @param {number} seconds */
export function duration(seconds) {
  if (seconds >= 2 * 365 * UNITS.d) return counted(Math.floor(seconds / (365.25 * UNITS.d)), "year");
  for (const [unit, length] of /** @type {[string, number][]} */ ([["day", UNITS.d], ["hour", UNITS.h], ["minute", UNITS.m]])) {
    if (seconds >= length) return counted(Math.floor(seconds / length), unit);
  }
  return counted(Math.max(0, Math.floor(seconds)), "second");
}

/** How far a time is from now: "in 29 days" or "2 hours ago". @param {number | string} seconds Unix seconds */
export function relative(seconds) {
  const left = Number(seconds) - now();
  return left > 0 ? `in ${duration(left)}` : `${duration(-left)} ago`;
}

/** When an event happened, in Unix milliseconds. The expiry of a revoked GUID is long before its revocation. @param {any} event */
export const happenedAt = ({ at, version }) => Math.max(at, version);

/** Whether a record was revoked, or created with an expiry in the past: there is no time to renew it. @param {{state: string, renew_at?: string | null}} record with all its members */
export const isRevoked = ({ state, renew_at: renewAt }) => state === "expired" && renewAt === null;

/** The state of a record, in one word. @param {{state: string, renew_at?: string | null}} record with all its members */
export const stateOf = (record) => (isRevoked(record) ? "revoked" : record.state);

/** A duration such as `90d` or `1h30m`, in seconds; NaN if it is none. @param {string} text */
export function parseDuration(text) {
  const compact = text.trim().toLowerCase().replace(/\s+|^\+/g, "");
  if (!/^(\d+[wdhms])+$/.test(compact)) return NaN;
  return [...compact.matchAll(/(\d+)([wdhms])/g)].reduce((sum, [, count, unit]) => sum + Number(count) * UNITS[unit], 0);
}

export const EXPIRY_HINT = "A duration (90d, 12h), a date (2027-01-31), a time (2027-01-31T12:00Z), or Unix seconds";

/**
 * The Unix seconds that a text stands for.
 * @param {string} text
 * @returns {number} NaN if it is no time
 */
export function parseExpiry(text) {
  const trimmed = text.trim();
  if (/^\d+$/.test(trimmed)) return Number(trimmed) <= MAX_EXPIRE ? Number(trimmed) : NaN;
  const span = parseDuration(trimmed);
  if (span) return Math.ceil(now() + span);
  if (!/^\d{4}-\d\d-\d\d/.test(trimmed)) return NaN;
  const isWithoutZone = /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?$/.test(trimmed); // the service's times are in UTC
  return Math.floor(Date.parse(trimmed.replace(/( UTC)?$/, isWithoutZone || / UTC$/.test(trimmed) ? "Z" : "").replace(" ", "T")) / 1000);
}

/** The characters of a GUID, without what other notations add. @param {string} text */
const bare = (text) => text.trim().replace(/^urn:uuid:/i, "").replace(/[-{}\s]/g, "");

/**
 * The GUID that a text stands for: with dashes, braces or lower-case letters, too.
 * @param {string} text
 * @returns {string | null}
 */
export function parseGuid(text) {
  const guid = bare(text).toUpperCase();
  return /^[0-9A-F]{32}$/.test(guid) ? guid : null;
}

/** Why a text is no GUID; nothing if it is one, or empty. @param {string} text */
export function guidFault(text) {
  if (!text.trim() || parseGuid(text)) return "";
  const characters = bare(text);
  const wrong = characters.match(/[^0-9a-f]/i)?.[0];
  return `A GUID has 32 hexadecimal characters; ${wrong ? `“${visible(wrong)}” is not one` : `this has ${characters.length}`}.`;
}

/**
 * A JSON document whose numbers are written back as they came: JavaScript alone would round 12345678901234567890.
 * @param {string} text
 */
export function parseExactly(text) {
  if (!("rawJSON" in JSON)) return JSON.parse(text);
  const { parse, rawJSON } = /** @type {any} */ (JSON); // TypeScript does not know them yet
  const keep = (/** @type {string} */ _, /** @type {any} */ value, /** @type {{source: string}} */ context) =>
    typeof value === "number" && String(value) !== context.source ? rawJSON(context.source) : value;
  return parse(text, keep);
}

/** Why a text is no JSON object, or nothing if it is one. @param {string} text */
export function objectFault(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? "" : 'This must be an object, such as {"env": "test"}.';
  } catch (error) {
    return `This is no JSON: ${/** @type {Error} */ (error).message}`;
  }
}

/** The text of a shell word. @param {string} text */
export const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/** Text with its hidden characters made visible: they could reorder or hide what stands around them. Joined emoji stay. @param {string} text */
export const visible = (text) =>
  text.replace(/(?!(?<=\p{Extended_Pictographic}\p{M}?\p{EMod}?)\u200d(?=\p{Extended_Pictographic}))[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (hidden) => `\\u{${/** @type {number} */ (hidden.codePointAt(0)).toString(16)}}`);

/** A value as JSON on lines, with its hidden characters made visible. @param {unknown} value */
export const jsonText = (value) => visible(JSON.stringify(value, null, 2)).replaceAll("\\u{a}", "\n");

/** How many there are of a thing: "1 GUID", "3 GUIDs". @param {number} count @param {string} thing */
export const counted = (count, thing) => `${grouped(count)} ${thing}${count === 1 ? "" : "s"}`;
