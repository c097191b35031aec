// @ts-check
/** Light or dark: that of the system, until somebody chooses the other. */

import { sharedValue } from "./shared.js";

const STORED = "guidsvc.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

/** Whether the page is dark. Plots must draw again when it changes. */
export const isDark = sharedValue(system.matches);

/** @param {string | null} chosen */
function apply(chosen) {
  if (chosen) document.documentElement.dataset.theme = chosen;
  isDark.value = chosen ? chosen === "dark" : system.matches;
}

apply(localStorage.getItem(STORED));
system.addEventListener("change", () => apply(localStorage.getItem(STORED)));

/** Change between light and dark. */
export function toggleTheme() {
  const chosen = isDark.value ? "light" : "dark";
  localStorage.setItem(STORED, chosen);
  apply(chosen);
}
