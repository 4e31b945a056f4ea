// Colours and visible texts of tokens, by the rules of kfexplore/figures/palette.py; and the block as text: the prompt
// and the K tokens, exact above learned, with their first difference marked.

const LETTERS = 44; // letters of the prompt's end that are shown

let palette = null;
let marked = null;

// Sets the data of palette.py, once per page.
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

// The visible text of a token, with marks for spaces, line ends and control characters.
export function labelOf(text) {
  if (text === undefined || text === null) return "\ufffd";
  const shown = text.replace(marked, (found) => palette.marks[found] || `‹${found.charCodeAt(0).toString(16)}›`);
  return shown || palette.empty;
}

// The same within running text, where spaces are spaces.
function proseOf(text) {
  return labelOf(text).replaceAll(palette.marks[" "], " ");
}

// Whether a text contains a part of a character, which cannot be shown alone.
export function isBroken(text) {
  return text.includes("\ufffd");
}

// The two lines: {earlier, prompt: [[id, text]], lines: {teacher, student: [[id, text]]}, differs}. `earlier` is the
// number of prompt tokens left out; `differs` is the first slot in which the lines differ, or null.
export function sentenceOf({ context, texts, k, point: { answer } }) {
  const { promptTokens } = context;
  let from = promptTokens.length;
  for (let room = LETTERS; from > 0 && (room -= promptTokens[from - 1][1].length) >= 0; ) from--;
  const line = (ids) => ids && ids.slice(0, k).map((id) => [id, id === null ? "?" : texts[id]]);
  const lines = { teacher: line(answer.teacher), student: line(answer.student) };
  const at = (lines.student ?? []).findIndex(([id], slot) => id !== null && id !== lines.teacher[slot][0]);
  return { earlier: from, prompt: promptTokens.slice(from), lines, differs: at < 0 ? null : at };
}

// The text of a line for a screen reader.
export function spokenLine(tokens) {
  return tokens.map(([, text]) => proseOf(text)).join("").trim();
}

// places: the elements of the two lines, {teacher, student}.
export function showSentence(places, sentence) {
  for (const [model, place] of Object.entries(places)) {
    const tokens = sentence.lines[model];
    const { earlier, prompt, differs } = sentence;
    const key = JSON.stringify([earlier, prompt, tokens, differs]);
    if (!tokens || place.dataset.key === key) continue;
    place.dataset.key = key;
    place.replaceChildren(promptNode(sentence, model), ...tokens.map((token, slot) => {
      const made = tokenNode(token);
      if (slot !== differs) return made;
      made.classList.add("kfs-first");
      if (model === "student") made.prepend(span("kfs-sign", "≠"), span("kfs-sr", " first difference: "));
      return made;
    }));
  }
}

function promptNode({ earlier, prompt }, model) {
  const place = span(model === "teacher" ? "kfs-prompt" : "kfs-again", "");
  if (model === "teacher") place.append(span("kfs-sr", "Prompt: "));
  else place.ariaHidden = true; // repeats the prompt
  if (earlier) place.append("…", span("kfs-sr", ` ${earlier} earlier ${earlier === 1 ? "token" : "tokens"} `));
  place.append(...prompt.map(tokenNode));
  if (!prompt.length) place.append("(no prompt)");
  return place;
}

function tokenNode([id, text]) {
  const made = span("kfs-token", proseOf(text));
  if (id !== null) made.dataset.hue = hueOf(id);
  made.title = labelOf(text);
  return made;
}

function span(className, text) {
  return Object.assign(document.createElement("span"), { className, textContent: text });
}
