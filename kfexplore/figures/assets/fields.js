// Prepares the fields of an event before Gradio sends them, and handles a text that comes back.

import { saveBlob } from "./save.js";

// The first field is the page's theme. Values of sliders are clamped to their range: while one is typed it may be empty
// or out of range, which Gradio rejects with a traceback. ends: [minimum, maximum] of each field, or null.
export function withTheme(ends, isDark, ...fields) {
  const inside = (value, at) => (ends[at] ? Math.min(Math.max(value, ends[at][0]), ends[at][1]) : value);
  return [document.body.classList.contains("dark"), ...fields.map(inside)];
}

// The same, after a field for whether a tab is open.
export function ofTab(id, ends, isOpen, ...fields) {
  const tab = document.querySelector(`[role="tab"][data-tab-id="${id}"]`);
  return [tab?.ariaSelected === "true", ...withTheme(ends, ...fields)];
}

// Scrolls to the output of a run if it is far down the page.
export function reveal(id) {
  const place = document.getElementById(id);
  if (!place?.offsetParent || place.getBoundingClientRect().top < 0.7 * innerHeight) return;
  const behavior = matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth";
  place.scrollIntoView({ behavior, block: "start" });
}

// Saves a text to a file on the reader's machine, unless it is empty.
export function saveText(name, type, text) {
  if (text) saveBlob(name, new Blob([text], { type }));
}
