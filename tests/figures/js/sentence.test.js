// The block as text (tokens.js): what is joined, what is left out, and where the two lines first differ.

import assert from "node:assert/strict";
import { test } from "node:test";

import { sentenceOf } from "../../../kfexplore/figures/assets/tokens.js";

const TEXTS = [" a", " girl", " boy", "."];

function stateOf({ prompt = ["Once"], teacher = [0, 1, 3], student = [0, 1, 3], k = 3 } = {}) {
  return { context: { promptTokens: prompt.map((text, id) => [id, text]) }, texts: TEXTS, k,
    point: { answer: { teacher, student } } };
}

const read = (line) => line.map(([, text]) => text).join("");

test("prompt and tokens are joined, exact and learned", () => {
  const { prompt, lines, earlier, differs } = sentenceOf(stateOf());
  assert.equal(read(prompt) + read(lines.teacher), "Once a girl.");
  assert.equal(read(lines.student), " a girl.");
  assert.deepEqual([earlier, differs], [0, null]);
});

test("the first slot that differs is marked, of the slots that are shown", () => {
  assert.equal(sentenceOf(stateOf({ student: [0, 2, 0] })).differs, 1);
  assert.equal(sentenceOf(stateOf({ student: [0, 1, 0], k: 2 })).differs, null);
  assert.equal(read(sentenceOf(stateOf({ k: 2 })).lines.teacher), " a girl");
});

test("a token that is not known is no difference", () => {
  const { lines, differs } = sentenceOf(stateOf({ teacher: [0, null, null], student: [0, null, null] }));
  assert.equal(differs, null);
  assert.equal(read(lines.teacher), " a??");
});

test("without a student there is one line", () => {
  const { lines, differs } = sentenceOf(stateOf({ student: null }));
  assert.deepEqual([lines.student, differs], [null, null]);
});

test("of a long prompt the end is shown, in whole tokens", () => {
  const { prompt, earlier } = sentenceOf(stateOf({ prompt: Array.from({ length: 30 }, (_, n) => ` word${n}`) }));
  assert.equal(read(prompt), " word24 word25 word26 word27 word28 word29");
  assert.equal(earlier, 24);
});
