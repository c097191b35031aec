export { h, render, Component, createRef } from "preact";
export { useState, useEffect, useLayoutEffect, useRef, useMemo, useCallback } from "preact/hooks";
import { h } from "preact";
import htm from "htm";
export const html = htm.bind(h);
