// What the browser does with the fields of an event before Gradio sends them, and with a text that comes back.

import { saveBlob } from "./save.js";

// The first field tells the server which theme the page has. Numbers of sliders stay within their ends: while one is
// typed it may be empty or outside, which Gradio refuses with a traceback. ends: [minimum, maximum] of each field, or
// null.
export function withTheme(ends, isDark, ...fields) {
  const inside = (value, at) => (ends[at] ? Math.min(Math.max(value, ends[at][0]), ends[at][1]) : value);
  return [document.body.classList.contains("dark"), ...fields.map(inside)];
}

// The same, after a field that tells the server whether a tab is open.
export function ofTab(id, ends, isOpen, ...fields) {
  const tab = document.querySelector(`[role="tab"][data-tab-id="${id}"]`);
  return [tab?.ariaSelected === "true", ...withTheme(ends, ...fields)];
}

// Scrolls to where a run shows what it does, if it is far down.
export function reveal(id) {
  const place = document.getElementById(id);
  if (!place?.offsetParent || place.getBoundingClientRect().top < 0.7 * innerHeight) return;
  const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  place.scrollIntoView({ behavior, block: "start" });
}

// Writes a text to a file on the reader's machine; nothing where it is empty.
export function saveText(name, type, text) {
  if (text) saveBlob(name, new Blob([text], { type }));
}
