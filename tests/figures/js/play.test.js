// A slider that moves by itself: what it asks, and what stops it.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { SETTLE } from "../../../kfexplore/figures/assets/session.js";
import { activated, picked, playBegun, playEnded, playedTo, slid } from "../../../kfexplore/figures/assets/state.js";
import { START, STEPS, Server, arrived, sessionOn, tokens } from "./played.js";

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

test("a slider that moves by itself asks for its sweep alone, and goes back", async () => {
  const server = new Server();
  const session = sessionOn(server);
  session.move(slid(session.state, 0, 0.9));
  mock.timers.tick(SETTLE);
  await arrived();
  server.asked = [];
  session.update(activated(session.state, 1));
  session.update(playBegun(session.state));
  const begun = session.state;
  assert.deepEqual(begun.playing, { slot: 1, from: START[1] });
  assert.equal(playedTo(begun, 0), begun, "it waits for its sweep");
  await arrived();
  for (let share = 0; share <= 1; share += 0.05) {
    session.update(playedTo(session.state, share));
    await arrived();
    const { u, point: { answer } } = session.state;
    assert.deepEqual(answer.student, tokens("student", "Once", u));
  }
  assert.deepEqual(server.sweeps, [[1]]);
  assert.deepEqual(server.names, ["tables"]);
  session.update(playEnded(session.state));
  session.settle();
  assert.equal(session.state.u[1], START[1]);
  assert.equal(session.state.playing, null);
});

test("what the reader moves stops a slider that moves by itself", () => {
  const session = sessionOn();
  session.update(playedTo(playBegun(session.state), 0.7));
  assert.equal(session.state.playing.slot, 0);
  session.move(slid(session.state, 2, 0.4));
  assert.equal(session.state.playing, null);
  assert.equal(session.state.u[0], (Math.floor(0.7 * STEPS) + 0.5) / STEPS);
});

test("without a server a slider moves by itself after a click on the grid, from the noise of the page", () => {
  const server = new Server();
  const grid = server.grid({ slots: [0, 1], prompt: "Once", u: START, temperature: 1 });
  const session = sessionOn({ transport: null }, { ...server.first(), grid });
  session.move(picked(session.state, [0, 1], 0.9, 0.1));
  const from = session.state.u[0];
  session.update(playBegun(session.state));
  session.update(playedTo(session.state, 0.7));
  assert.deepEqual(session.state.playing, { slot: 0, from });
  assert.deepEqual(session.state.u, [(Math.floor(0.7 * STEPS) + 0.5) / STEPS, ...START.slice(1)]);
  session.update(playEnded(session.state));
  assert.equal(session.state.u[0], from);
});

test("a slider whose sweep is refused does not wait for it", async () => {
  const server = new Server();
  const session = sessionOn(server);
  server.failing = ["tables"];
  session.move(slid(session.state, 0, 0.9));
  session.update(activated(session.state, 1));
  session.update(playBegun(session.state));
  await arrived();
  session.update(playedTo(session.state, 0));
  assert.equal(session.state.playing, null);
});
