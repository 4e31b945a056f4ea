// Decoding, look-ups and runs of equal tokens (codec.js), and what an area of the grid means (gridview.js).

import assert from "node:assert/strict";
import { test } from "node:test";

import { compareRuns, gridFits, readSweeps, runAt, snapped, stepOf, sweepAt, sweepFits, trackFits, trackRuns }
  from "../../../kfexplore/figures/assets/codec.js";
import { meaningOfArea } from "../../../kfexplore/figures/assets/gridview.js";
import { START, STEPS, Server, tokens } from "./played.js";

const sweeps = (every = 1) => readSweeps(Object.assign(new Server(), { every }).first());

for (const every of [1, 8]) {
  test(`a sweep in steps of ${every} holds the models' tokens at the middle of each`, () => {
    for (const sweep of sweeps(every)) {
      for (let step = 0; step < STEPS; step += 5) {
        const u = START.map((value, slot) => (slot === sweep.slot ? snapped(step / STEPS, STEPS, every) : value));
        const { teacher, student, margin } = sweepAt(sweep, step, 3);
        assert.deepEqual([teacher, student], [tokens("teacher", "Once", u), tokens("student", "Once", u)]);
        assert.deepEqual(margin, [0.5, 0.5, 0.5]);
      }
    }
  });
}

test("a sweep of the wrong size is refused, one without a student has no learned tokens", () => {
  const reply = new Server().first();
  assert.throws(() => readSweeps({ ...reply, teacher: reply.teacher.slice(8) }), /expected/);
  assert.throws(() => readSweeps({ ...reply, u: START.slice(1) }), /got 2 numbers, expected 3/);
  const [alone] = readSweeps({ ...reply, student: undefined, margin: undefined });
  assert.deepEqual(Object.keys(sweepAt(alone, 0, 3)), ["teacher", "edge"]);
});

test("a sweep fits noise that differs in its own slot, a track noise that differs from there on", () => {
  const sweep = sweeps()[1];
  const state = (u, more) => ({ u, k: 3, temperature: 1, ...more });
  const [a, b, c] = START;
  assert.ok(sweepFits(sweep, state([a, 0.9, c])));
  assert.ok(!sweepFits(sweep, state([a, b, 0.9])));
  assert.ok(sweepFits(sweep, state([a, b, 0.9], { k: 2 })));
  assert.ok(!sweepFits({ ...sweep, k: 2 }, state(START)));
  assert.ok(!sweepFits(sweep, state(START, { temperature: 2 })));
  assert.ok(trackFits(sweep, state([a, 0.9, 0.9])));
  assert.ok(!trackFits(sweep, state([0.9, b, c])));
  assert.ok(!trackFits(sweep, state(START, { temperature: 2 })));
});

test("a grid fits noise that differs in its two slots and after them", () => {
  const context = { pair: "tales", prompt: "Once" };
  const grid = { ...context, u: START, slots: [0, 2], temperature: 1 };
  const fits = (u, slots = [0, 2], more = {}) => gridFits(grid, slots, { context, u, temperature: 1, ...more });
  assert.ok(fits([0.9, START[1], 0.9]));
  assert.ok(!fits([START[0], 0.9, START[2]]));
  assert.ok(!fits(START, [0, 1]));
  assert.ok(!fits(START, [0, 2], { context: { ...context, prompt: "Twice" } }));
  assert.ok(!fits(START, [0, 2], { temperature: 2 }));
});

test("steps stay inside, and coarse ones snap to what is held", () => {
  assert.deepEqual([stepOf(-1, 8), stepOf(0.5, 8), stepOf(1, 8)], [0, 4, 7]);
  assert.equal(snapped(0.99, 64, 8), (60 + 0.5) / 64);
});

test("runs cover a track, and where two differ is found", () => {
  const [sweep] = sweeps(8);
  const runs = trackRuns(sweep, "teacher");
  assert.deepEqual([runs[0].from, runs.at(-1).to], [0, STEPS]);
  assert.equal(runAt(runs, STEPS), runs.at(-1));
  const exact = [{ from: 0, to: 4, id: 1 }, { from: 4, to: 8, id: 2 }];
  const learned = [{ from: 0, to: 6, id: 1 }, { from: 6, to: 8, id: 2 }];
  assert.deepEqual(compareRuns(exact, learned).map(({ from, to, same }) => [from, to, same]),
    [[0, 4, true], [4, 6, false], [6, 8, true]]);
});

test("the meaning of an area of the grid is explained in words", () => {
  for (const [slots, words] of [
    [[0, 1], "of its pair."],
    [[1, 2], "given the exact token before them."],
    [[2, 3], "given the exact tokens before them."],
    [[0, 2], "The noise of slot 2 is fixed"],
    [[0, 3], "The noise of slots 2 and 3 is fixed"],
    [[1, 5], "The noise of slots 3 to 5 is fixed"],
  ]) assert.ok(meaningOfArea(slots).includes(words));
});
