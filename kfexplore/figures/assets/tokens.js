// How tokens look: their colours and visible texts, by the rules of kfexplore/figures/palette.py.

let palette = null;
let marked = null;

// The data of palette.py, once for a page.
export function usePalette(data) {
  const escaped = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  palette = data;
  marked = new RegExp(`[${Object.keys(data.marks).map(escaped).join("")}${data.hidden}]`, "g");
}

// The colours of a theme, "light" or "dark".
export function coloursOf(theme) {
  return palette[theme];
}

// Math.imul keeps the low 32 bits of the product; a plain product would lose them past 2^53.
export function hueOf(id) {
  return Math.floor(((Math.imul(id, palette.multiplier) >>> 0) * palette.hues) / 2 ** 32);
}

// The visible text of a token: no blank, line end or control character goes unseen.
export function labelOf(text) {
  if (text === undefined || text === null) return "\ufffd";
  const shown = text.replace(marked, (found) => palette.marks[found] || `‹${found.charCodeAt(0).toString(16)}›`);
  return shown || palette.empty;
}

// The same within running text, where spaces are spaces.
export function proseOf(text) {
  return labelOf(text).replaceAll(palette.marks[" "], " ");
}

// Whether it holds a part of a character, which no token's own text can show.
export function isBroken(text) {
  return text.includes("\ufffd");
}
