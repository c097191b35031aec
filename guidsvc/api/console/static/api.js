// @ts-check
/** Requests to the service. Only this module knows the key, which is never part of a URL or of a text. */

import { sharedValue } from "./shared.js";
import { parseExactly, quoted } from "./values.js";

const STORED = "guidsvc.key";
const PASTED_BYTES = 2000;

/** @type {string} */
let key = sessionStorage.getItem(STORED) ?? "";

/** The curl command of the last request that a panel made. */
export const lastCommand = sharedValue("");

/** The body of that request, if it is too long for the command, which reads it from the file body.json. */
export const lastBody = sharedValue("");

/** @type {Set<() => void>} */
const unauthorizedListeners = new Set();

/** An error of the service (a problem), or none of its answers at all (status 0). */
export class RequestError extends Error {
  /**
   * @param {number} status
   * @param {Record<string, any>} problem
   * @param {Headers} [headers]
   */
  constructor(status, problem, headers) {
    super(problem.detail ?? problem.title ?? `HTTP ${status}`);
    this.status = status;
    this.problem = problem;
    this.etag = headers?.get("ETag") ?? null;
    this.retryAfter = Number(headers?.get("Retry-After") ?? 3);
  }

  /** Whether the same request may succeed later. */
  get isTemporary() {
    return [0, 429, 502, 503, 504].includes(this.status);
  }
}

/** Send this key from now on; keep it for reloads of this tab if asked. @param {string} secret @param {boolean} isKept */
export function useKey(secret, isKept = false) {
  key = secret;
  sessionStorage.removeItem(STORED);
  if (isKept && secret) sessionStorage.setItem(STORED, secret);
}

/** Forget the key. */
export const forgetKey = () => useKey("");

/** Whether there is a key. */
export const hasKey = () => key !== "";

/** Call a function when the service rejects the key. @param {() => void} listener */
export function onUnauthorized(listener) {
  unauthorizedListeners.add(listener);
  return () => unauthorizedListeners.delete(listener);
}

/**
 * @typedef {object} Options
 * @property {string} [method]
 * @property {Record<string, string | number | undefined | null>} [query]
 * @property {unknown} [json] The body, to be sent as JSON.
 * @property {string | Blob} [body] The body, as it is.
 * @property {Record<string, string>} [headers]
 * @property {AbortSignal} [signal]
 * @property {() => void} [onOpen] Called when a stream of lines has begun.
 * @property {boolean} [isQuiet] Whether its curl command is not shown, because the request is one of many of its kind.
 */

/**
 * Send a request, and return the response if it is a success.
 * @param {string} path relative to the root of the service
 * @param {Options} [options]
 * @returns {Promise<Response>}
 */
export async function send(path, options = {}) {
  const { method = "GET", headers = {}, signal } = options;
  const body = options.json === undefined ? options.body : JSON.stringify(options.json);
  const url = address(path, options.query);
  const sent = { ...(options.json === undefined ? {} : { "Content-Type": "application/json" }), ...headers };
  if (!options.isQuiet) {
    lastBody.value = isLong(body) ? String(body) : "";
    lastCommand.value = commandOf(method, url, sent, body);
  }
  const sentKey = key;
  const response = await reach(url, { method, body, signal, headers: key ? { ...sent, Authorization: `Bearer ${key}` } : sent });
  if (response.ok) return response;
  // An answer to an older key says nothing about this one.
  if (response.status === 401 && sentKey === key) unauthorizedListeners.forEach((listener) => listener());
  throw new RequestError(response.status, await problemOf(response), response.headers);
}

/**
 * Send a request, and return the members of its JSON response.
 * @param {string} path
 * @param {Options} [options]
 */
export async function load(path, options) {
  const response = await send(path, { ...options, headers: { Accept: "application/json", ...options?.headers } });
  return response.status === 204 ? null : parsed(await response.text(), response);
}

/**
 * The same for records: the numbers of their metadata keep all their digits.
 * @param {string} path
 * @param {Options} [options]
 */
export async function loadExactly(path, options) {
  const response = await send(path, { ...options, headers: { Accept: "application/json", ...options?.headers } });
  return parsed(await response.text(), response, parseExactly);
}

/**
 * Send a request, and yield the values of its response, which has one per line.
 * @param {string} path
 * @param {Options} [options]
 * @returns {AsyncGenerator<any>}
 */
export async function* loadLines(path, options) {
  const response = await send(path, { ...options, headers: { Accept: "application/x-ndjson", ...options?.headers } });
  options?.onOpen?.();
  const reader = /** @type {ReadableStream} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw options?.signal?.aborted ? error : new RequestError(0, { detail: "The connection broke off." });
    });
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = /** @type {string} */ (lines.pop());
    for (const line of lines) if (line) yield parsed(line, response);
  }
  if (!rest) return;
  try {
    yield JSON.parse(rest);
  } catch {
    throw new RequestError(0, { detail: "The connection broke off." }); // within a line
  }
}

/**
 * A value of the JSON of a response. A proxy may answer with something else.
 * @param {string} text the response, or a line of it
 * @param {Response} response
 * @param {(text: string) => any} [parse]
 */
export function parsed(text, response, parse = JSON.parse) {
  try {
    return parse(text);
  } catch {
    throw new RequestError(response.status, foreignProblem(response));
  }
}

/** @param {string} path @param {Options["query"]} [query] */
function address(path, query = {}) {
  const url = new URL(`./${path}`, document.baseURI); // `guid:batch` alone would have a scheme
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, String(value));
  }
  return url;
}

/** @param {URL} url @param {RequestInit} options */
async function reach(url, options) {
  try {
    return await fetch(url, { ...options, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer", redirect: "error" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new RequestError(0, { title: "No answer", detail: "The service does not answer. Is it running, and can this computer reach it?" });
  }
}

/** @param {Response} response */
async function problemOf(response) {
  const problem = await response.json().catch(() => null);
  return problem !== null && typeof problem === "object" && !Array.isArray(problem) ? problem : foreignProblem(response);
}

/** The problem that a response is not one of the service. @param {Response} response */
const foreignProblem = ({ status }) => ({ detail: `The response has the status ${status}, and is not one of guidsvc. Is a proxy in between?` });

/** Whether a body is too long to be part of a command. @param {string | Blob | undefined} body */
const isLong = (body) => typeof body === "string" && body.length > PASTED_BYTES;

/**
 * The curl command of a request, with $KEY in place of the key.
 * @param {string} method
 * @param {URL} url
 * @param {Record<string, string>} headers
 * @param {string | Blob | undefined} body
 */
function commandOf(method, url, headers, body) {
  const words = ["curl"];
  if (method !== "GET") words.push("-X", method);
  if (key) words.push("-H", '"Authorization: Bearer $KEY"');
  for (const [name, value] of Object.entries(headers)) {
    if (name !== "Accept" || value !== "application/json") words.push("-H", quoted(`${name}: ${value}`));
  }
  if (typeof body === "string") words.push(...(isLong(body) ? ["--data-binary", "@body.json"] : ["-d", quoted(body)]));
  else if (body) words.push("--data-binary", "@file.ndjson");
  words.push(quoted(url.href));
  return words.join(" ");
}
