// @ts-check
/** A value that several components show: they are drawn again when it changes. */

import { useEffect, useState } from "./preact.js";

/**
 * @template T
 * @typedef {{value: T, use: () => T}} Shared
 */

/**
 * @template T
 * @param {T} initial
 * @returns {Shared<T>}
 */
export function sharedValue(initial) {
  let current = initial;
  /** @type {Set<(value: T) => void>} */
  const listeners = new Set();
  return {
    get value() {
      return current;
    },
    set value(next) {
      current = next;
      listeners.forEach((listener) => listener(next));
    },
    /** The value, as a hook. */
    use() {
      const [, setValue] = useState(current);
      useEffect(() => {
        const update = (/** @type {T} */ next) => setValue(() => next);
        listeners.add(update);
        update(current);
        return () => listeners.delete(update);
      }, []);
      return current;
    },
  };
}
