// The block as text: the prompt and the K tokens, exact above learned, with their first difference marked.

import { hueOf, labelOf, proseOf } from "./tokens.js";

const LETTERS = 44; // of the prompt's end

// What the two lines say: {earlier, prompt: [[id, text]], lines: {teacher, student: [[id, text]]}, differs}. `earlier`
// counts the tokens of the prompt that are left out; `differs` is the first slot in which the lines differ, or null.
export function sentenceOf({ context, texts, k, point: { answer } }) {
  const { promptTokens } = context;
  let from = promptTokens.length;
  for (let room = LETTERS; from > 0 && (room -= promptTokens[from - 1][1].length) >= 0; ) from--;
  const line = (ids) => ids && ids.slice(0, k).map((id) => [id, id === null ? "?" : texts[id]]);
  const lines = { teacher: line(answer.teacher), student: line(answer.student) };
  const at = (lines.student ?? []).findIndex(([id], slot) => id !== null && id !== lines.teacher[slot][0]);
  return { earlier: from, prompt: promptTokens.slice(from), lines, differs: at < 0 ? null : at };
}

// As one would read it.
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
  else place.ariaHidden = true; // the same once more
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
