// What the browser does with the fields of an event before Gradio sends them, and with a text that comes back.

import { saveBlob } from "./save.js";

// The last field tells the server which theme the page has.
export function withTheme(...fields) {
  return [...fields.slice(0, -1), document.body.classList.contains("dark")];
}

// The same, and numbers of sliders stay within their ends. While one is typed it may be empty or outside, which Gradio
// refuses with a traceback. ends: [minimum, maximum] of each field, or null.
export function withinEnds(ends, ...fields) {
  const inside = (value, at) => (ends[at] ? Math.min(Math.max(value, ends[at][0]), ends[at][1]) : value);
  return withTheme(...fields.map(inside));
}

// The first two fields tell the server whether a tab is open, and which theme the page has.
export function ofTab(id, isOpen, isDark, ...fields) {
  const tab = document.querySelector(`[role="tab"][data-tab-id="${id}"]`);
  return [tab?.ariaSelected === "true", document.body.classList.contains("dark"), ...fields];
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
