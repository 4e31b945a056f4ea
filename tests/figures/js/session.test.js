// What a widget asks, when, and what replies make of its state: state.js, decisions.js and session.js together.

import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { REFINE, SETTLE, ask } from "../../../kfexplore/figures/assets/session.js";
import { openQuestion } from "../../../kfexplore/figures/assets/decisions.js";
import { activated, busy, diced, gridChanged, heated, linkedNoise, lockToggled, picked, reset, shortened, slid, slidByKey,
  typed } from "../../../kfexplore/figures/assets/state.js";
import { START, STEPS, Server, arrived, sessionOn, tokens } from "./played.js";

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

const settle = async () => (mock.timers.tick(SETTLE), arrived());
const pass = async (time) => (mock.timers.tick(time), arrived());

// The drawn tokens are the models' own at the noise and the temperature of the state.
function assertTrue({ state }) {
  const { point, u, k, temperature, context } = state;
  assert.equal(point.status, "known");
  for (const model of ["teacher", "student"]) {
    assert.deepEqual(point.answer[model].slice(0, k), tokens(model, context.prompt, u.slice(0, k), temperature));
  }
}

test("the sweep of a slider answers its drag, and the settled move asks for the tracks that it changed", async () => {
  const server = new Server();
  const session = sessionOn(server);
  for (let value = 0.01; value < 1; value += 0.07) {
    session.move(slid(session.state, 1, value));
    assertTrue(session);
  }
  assert.deepEqual(server.asked, []);
  assert.deepEqual(session.state.tracks.map(({ status }) => status), ["known", "known", "pending"]);
  await settle();
  assert.deepEqual(server.sweeps, [[2]], "its own track and those before it do not depend on it");
  assert.deepEqual(server.asked[0].u, session.state.u);
  assert.deepEqual(session.state.tracks.map(({ status }) => status), ["known", "known", "known"]);
});

test("a slider that the reader points at gets its sweep before it moves", async () => {
  const server = new Server();
  const session = sessionOn(server);
  session.move(slid(session.state, 1, 0.9));
  await settle();
  session.update(activated(session.state, 0));
  await arrived();
  assert.deepEqual(server.sweeps, [[2], [0]]);
  session.move(slid(session.state, 0, 0.4));
  assertTrue(session);
  assert.ok(!server.names.includes("point"));
  session.update(activated(session.state, 1));
  await settle();
  server.asked = [];
  session.move(typed(session.state, 0, "0.2"), true);
  await arrived();
  assert.deepEqual(server.sweeps, [[1], [2]], "one question for slot 1, which is active and whose track has changed");
});

test("what the page does not hold is a point, one in flight, and the newest wins", async () => {
  const server = new Server();
  const session = sessionOn(server);
  let answer;
  server.hold = new Promise((resolve) => (answer = resolve));
  session.move(slid(session.state, 0, 0.9));
  for (const value of [0.1, 0.2, 0.3]) session.move(slid(session.state, 1, value));
  assert.equal(session.state.point.status, "pending");
  assert.deepEqual(server.names.filter((name) => name === "point"), ["point"]);
  answer();
  await arrived();
  assert.deepEqual(server.asked.filter(({ name }) => name === "point").map(({ u }) => Math.floor(u[1] * 10)), [1, 3]);
  assertTrue(session);
});

for (const failing of [[], ["point"]]) test(`a late answer does not replace a newer one ${failing}`, async () => {
  const server = Object.assign(new Server(), { failing });
  const session = sessionOn(server);
  let answer;
  server.hold = new Promise((resolve) => (answer = resolve));
  session.move(picked(session.state, [0, 1], 0.9, 0.1));
  session.move(picked(session.state, [0, 1], START[0], START[1]));
  answer();
  await arrived();
  assert.deepEqual([session.state.point.source, session.state.message], ["stored", null]);
  assertTrue(session);
  assert.deepEqual(server.names, ["point"]);
});

test("a reply for another prompt, or for slots that are no longer chosen, is dropped", async () => {
  const server = new Server();
  const session = sessionOn(server);
  let answer;
  server.hold = new Promise((resolve) => (answer = resolve));
  session.update(gridChanged(session.state, { isVisible: true }));
  session.update(gridChanged(session.state, { slots: [1, 2] }));
  const drawn = [];
  session.onChange = (_, { grid }) => drawn.push(`${grid.data?.slots}`);
  answer();
  await arrived();
  assert.deepEqual([...new Set(drawn)], ["undefined", "1,2"]);
  server.hold = new Promise((resolve) => (answer = resolve));
  session.move(slid(session.state, 1, 0.9), true);
  server.hold = null;
  await session.load({ prompt: "Twice" });
  answer();
  await arrived();
  session.move(slid(session.state, 2, 0.3));
  assertTrue(session);
});

test("a GPU is asked for all tracks at once, and once more after it was busy", async () => {
  const server = Object.assign(new Server(), { device: "cuda" });
  const session = sessionOn(server);
  server.busy = 1;
  session.move(slid(session.state, 0, 0.9));
  await settle();
  assert.deepEqual(server.sweeps, [[1, 2]]);
  assert.equal(session.state.isBusy, true);
  assert.equal(session.state.said, "The server is busy. Trying again…");
  session.move(slid(session.state, 0, 0.4)); // the question is then for this noise
  await pass(1000);
  await settle();
  assert.deepEqual([session.state.isBusy, session.state.said, session.state.message], [false, "", null]);
  assert.deepEqual(server.sweeps, [[1, 2], [1, 2]]);
  assert.deepEqual(server.asked.at(-1).u, session.state.u);
  assert.ok(session.state.tracks.every(({ status }) => status === "known"));
});

test("where sweeps are coarse, a slider goes to the steps that they hold, and refines at rest", async () => {
  const server = Object.assign(new Server(), { every: 8 });
  const session = sessionOn(server, new Server().first());
  const stepOf = (slot) => session.state.u[slot] * STEPS - 0.5;
  session.move(slid(session.state, 0, 0.9));
  assert.equal(stepOf(0), Math.floor(0.9 * STEPS), "held in all steps");
  await settle();
  for (const value of [0.1, 0.5, 0.99]) {
    session.move(slid(session.state, 2, value));
    await arrived();
    assert.equal(stepOf(2) % 8, 4);
    assertTrue(session);
  }
  const before = stepOf(2);
  session.move(slidByKey(session.state, 2, "ArrowLeft", false));
  assert.equal(stepOf(2), before - 8);
  assert.ok(!server.names.includes("point"));
  await settle();
  server.every = 1;
  server.asked = [];
  await pass(REFINE);
  assert.ok(session.state.tracks.every(({ sweep }) => sweep.every === 1));
  assert.ok(server.asked.every(({ yields }) => yields), "it lets others go first");
});

test("where many ask, a move waits for the sweep that it needs, and asks for no point", async () => {
  const server = Object.assign(new Server(), { every: 8 });
  const session = sessionOn(server, new Server().first());
  session.move(slid(session.state, 0, 0.9));
  await settle();
  session.move(slid(session.state, 1, 0.3)); // not pointed at before: its sweep has to come
  assert.equal(session.state.point.status, "pending");
  await settle();
  assert.equal((session.state.u[1] * STEPS - 0.5) % 8, 4);
  assertTrue(session);
  assert.ok(!server.names.includes("point"));
});

test("a temperature moves points, tracks and the grid; a refused one goes back", async () => {
  const server = new Server();
  const session = sessionOn(server);
  session.update(gridChanged(session.state, { isVisible: true }));
  await arrived();
  server.asked = [];
  session.move(heated(session.state, 0.3));
  assert.ok(!server.names.includes("grid"), "not while it moves");
  await settle();
  await arrived();
  assertTrue(session);
  assert.deepEqual(server.sweeps, [[0], [1], [2]]);
  assert.deepEqual(new Set(server.names), new Set(["point", "tables", "grid"]));
  assert.ok(server.asked.every(({ temperature }) => temperature === 0.3));
  assert.equal(session.state.grid.status, "known");
  session.move(reset(session.state), true);
  await arrived();
  assertTrue(session);
  assert.equal(session.state.temperature, 1);
  server.failing = ["point", "tables"];
  session.move(heated(session.state, 0.7), true);
  await arrived();
  assert.equal(session.state.temperature, 1);
  assert.ok(session.state.message.failed.startsWith("No "));
  assertTrue(session);
});

test("what the server refuses is not asked again before the reader acts", async () => {
  const server = new Server();
  const session = sessionOn(server);
  session.update(gridChanged(session.state, { isVisible: true }));
  await arrived();
  server.failing = ["tables", "grid"];
  server.asked = [];
  session.move(slid(session.state, 1, 0.9));
  await settle();
  assert.deepEqual(server.sweeps, [[2]]);
  assert.equal(session.state.tracks[2].status, "failed");
  session.update(gridChanged(session.state, { slots: [1, 2] }));
  await arrived();
  assert.deepEqual(session.state.grid.slots, [0, 1], "as what is drawn");
  session.update(activated(session.state, 2));
  await arrived();
  const asked = server.asked.length;
  await pass(10_000);
  assert.equal(server.asked.length, asked);
  server.failing = [];
  session.update(activated(session.state, 1));
  await arrived();
  assert.equal(session.state.tracks[2].status, "known");
  assert.equal(session.state.message, null);
});

test("a typed number is asked for exactly; another text is a message until the next move", async () => {
  const server = new Server();
  const session = sessionOn(server);
  session.move(typed(session.state, 1, "0.123456789"), true);
  await arrived();
  assert.equal(session.state.u[1], 0.123456789);
  assertTrue(session);
  for (const text of ["1.2", "1", "-0.1", "abc", "", "Infinity"]) {
    session.move(typed(session.state, 1, text), true);
    assert.match(session.state.message.failed, /^u is (empty|\S+)\.$/);
    assert.equal(session.state.u[1], 0.123456789);
  }
  session.update(activated(session.state, 0)); // its sweep arrives
  await arrived();
  assert.ok(session.state.message.isTyped);
  session.move(slid(session.state, 2, 0.2));
  assert.equal(session.state.message, null);
});

test("dice leave locked slots alone, and reset unlocks them", () => {
  const session = sessionOn();
  session.move(slid(lockToggled(session.state, 1), 1, 0.9), true);
  const { u } = session.state;
  session.move(diced(session.state, () => 0.99), true);
  assert.deepEqual(session.state.u, [1 - 0.5 / STEPS, u[1], 1 - 0.5 / STEPS]);
  session.move(reset(session.state), true);
  assert.deepEqual(session.state.u, START);
  assert.deepEqual(session.state.locked, [false, false, false]);
});

test("a link to other noise of what is shown needs no other context", async () => {
  const server = new Server();
  const session = sessionOn(server);
  const { pair, prompt } = session.state.context;
  const link = { pair, prompt, k: 2, u: [0.5 / STEPS, START[1]], temperature: 1 };
  session.move(linkedNoise(session.state, link), true);
  assert.deepEqual([session.state.k, session.state.u], [2, [0.5 / STEPS, START[1], START[2]]]);
  assertTrue(session);
  assert.ok(!server.names.includes("point"), "the page has the sweep of slot 1");
  const others = [{ prompt: "else" }, { pair: "else" }, { k: 4 }, { u: [0.5, 1] }, { u: ["a", 0] }, { u: undefined },
    { temperature: 0.5 }];
  for (const other of others) assert.equal(linkedNoise(session.state, { ...link, ...other }), null);
});

test("fewer slots need no question, more are a context of their own", async () => {
  const server = new Server();
  const session = sessionOn(server, server.first({ k: 2, u: START.slice(0, 2) }));
  session.move(shortened(session.state, 1));
  assertTrue(session);
  assert.deepEqual(server.asked, []);
  assert.ok(await session.load({ k: 3, u: session.state.u }));
  assert.equal(session.state.tracks.length, 3);
  assertTrue(session);
});

test("another prompt keeps noise, temperature and a move made meanwhile; a refused one changes nothing", async () => {
  const server = new Server();
  const session = sessionOn(server);
  session.move(heated(session.state, 0.5), true);
  await arrived();
  const done = session.load({ prompt: "Twice" });
  session.move(slid(session.state, 0, 0.7));
  assert.equal(await done, true);
  await arrived();
  assert.equal(session.state.context.prompt, "Twice");
  assert.ok(Math.abs(session.state.u[0] - 0.7) < 1 / STEPS);
  assertTrue(session);
  server.failing = ["tables"];
  const { context, u } = session.state;
  assert.equal(await session.load({ prompt: "Thrice" }), false);
  assert.deepEqual([session.state.context, session.state.u], [context, u]);
  assert.deepEqual([session.state.message.failed, session.state.message.shown], ["No tables.", context]);
});

test("a question for another context asks for what was asked, and for as many slots as are shown", () => {
  const { state } = sessionOn();
  const ask = (change) => openQuestion({ ...state, k: 2 }, change);
  assert.deepEqual([ask({}).k, ask({}).u], [2, START.slice(0, 2)]);
  assert.deepEqual([ask({ pair: "other" }).k, ask({ pair: "other" }).fits], [undefined, true]);
  assert.deepEqual([ask({ u: [0.5] }).k, ask({ u: [0.5] }).u], [undefined, [0.5]]);
  assert.deepEqual([ask({ k: 1, prompt: undefined }).u, ask({ k: 1 }).prompt], [START.slice(0, 1), "Once"]);
});

test("only the newest of two questions for another context counts", async () => {
  const session = sessionOn();
  const [first, second] = [session.load({ prompt: "One" }), session.load({ prompt: "Two" })];
  assert.deepEqual([await first, await second], [null, true]);
  assert.equal(session.state.context.prompt, "Two");
});

test("a malformed reply changes nothing and is a failure", async () => {
  const server = new Server();
  const session = sessionOn(server);
  for (const wrong of [undefined, {}, { ...server.first(), margin: "AAAA" }, { ...server.first(), seq: 77 }]) {
    const before = session.state.context;
    server.reply = () => wrong;
    assert.equal(await session.load({ prompt: "Twice" }), false);
    assert.equal(session.state.context, before);
    assert.match(session.state.message.failed, /gave no answer/);
  }
});

test("without a server a slider moves through the noise of the first reply, and a grid gives two slots", () => {
  const server = new Server();
  const grid = { ok: true, ...server.grid({ slots: [0, 1], prompt: "Once", u: START, temperature: 1 }) };
  const session = sessionOn({ transport: null }, { ...server.first(), grid });
  session.move(slid(session.state, 0, 0.9));
  assertTrue(session);
  assert.deepEqual(session.state.tracks.map(({ status }) => status), ["known", "failed", "failed"]);
  session.move(slid(session.state, 1, 0.1));
  assert.equal(session.state.u[0], START[0]);
  assertTrue(session);
  session.move(picked(session.state, [0, 1], 0.81, 0.31));
  const { answer } = session.state.point;
  assert.deepEqual(answer.teacher.slice(0, 2), tokens("teacher", "Once", session.state.u.slice(0, 2)));
  assert.equal(answer.teacher[2], null);
});

test("a busy server is asked ever less often, until something else is asked", async (context) => {
  context.mock.method(Math, "random", () => 0.5);
  const told = [];
  let isOver = false;
  const options = { isOver: () => isOver, onBusy: (each) => told.push(each) };
  const reply = ask(async () => ({ ok: false, busy: true }), { seq: 1 }, options);
  await arrived();
  for (const [wait, asked] of [[249, 1], [1, 2], [499, 2], [1, 3], [1000, 4], [2000, 5], [4000, 6], [4000, 7]]) {
    await pass(wait);
    assert.equal(told.length, asked);
  }
  isOver = true;
  await pass(10_000);
  assert.deepEqual(await reply, { ok: false, busy: true });
  assert.equal(told.at(-1), null);
  const late = ask(() => new Promise(() => {}), { seq: 1 }, { patience: 5 });
  await pass(5);
  assert.match((await late).failed, /gave no answer/);
  assert.equal(busy(sessionOn().state, null).said, "");
});
