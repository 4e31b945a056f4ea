// Clients that drag the sliders of a served app. Each runs the page's own modules (state, decisions, session) without a
// page: what is asked, and when, is what a browser asks.
//
// node tools/scrubbers.js OPTIONS: {url, pair, k, prompts, component, seconds, seed, keep}. Prints {events, answers, cpu}:
// events {what, client, at, ms, how, why}, times `at` in seconds since 1970, `how` done, busy, lost or error; answers
// {prompt, u, teacher, student}, up to `keep` per client, to compare with the exact ones.

import { midpoint, readSweeps, stepOf, sweepAt } from "../kfexplore/figures/assets/codec.js";
import { Session } from "../kfexplore/figures/assets/session.js";
import { activated, slid } from "../kfexplore/figures/assets/state.js";

const RESOLUTION = 512;
const MOVE_EVERY = 100;
const RETRY = 1000;
const PATIENCE = 180000;
// Shortest and longest duration of a drag, and of the pause after it, in milliseconds.
const DRAG = [2000, 4000];
const REST = [1000, 3000];
const RAMP = 0.05; // fraction of the time within which the clients start, one after another
const KEEP_RATE = 0.1;

const options = JSON.parse(process.argv[2]);
const until = Date.now() + 1000 * options.seconds;
const events = [];
const answers = [];

const sleep = (time) => new Promise((resolve) => setTimeout(resolve, Math.max(0, time)));

// Uniform numbers from a seed (mulberry32).
function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// How a reply does not match its request, or null.
function mismatch(name, question, reply) {
  for (const field of name === "point" ? ["seq", "u"] : ["seq", "u", "pair", "prompt"]) {
    const [asked, found] = [question[field], reply[field]].map((value) => JSON.stringify(value));
    if (asked !== found) return `${field} is ${found}, not ${asked}`;
  }
  const k = question.u.length;
  const slots = question.slots || question.u.map((_, slot) => slot);
  const isWhole = name === "point" ? reply.teacher.length === k && reply.student.length === k
    : reply.k === k && String(reply.slots) === String(slots);
  return isWhole ? null : "tokens of other slots";
}

class Client {
  constructor(number, prompt) {
    this.name = `scrubber ${number}`;
    this.prompt = prompt;
    this.random = randomFrom(1000003 * options.seed + number);
    this.page = `load${options.seed}x${number}`;
    this.moves = []; // moves whose tokens are not known yet: {seq, began}
    this.isMoving = false;
    this.kept = 0;
    const [point, tables] = ["point", "tables"].map((name) => (question) => this.ask(name, question));
    this.session = new Session({ point, tables }, (before, after) => this.seeMoves(before.point, after.point));
  }

  uniform([low, high]) {
    return low + (high - low) * this.random();
  }

  record(what, how, { ms = null, why = "" } = {}) {
    events.push({ what, client: this.name, at: Date.now() / 1000, ms, how, why });
  }

  async run() {
    const closing = new AbortController();
    this.keepOpen(closing.signal);
    while (!(await this.open()) && Date.now() < until) await sleep(RETRY);
    while (this.session.state.context && Date.now() < until) {
      await this.drag();
      await sleep(Math.min(this.uniform(REST), until - Date.now()));
    }
    while (Object.values(this.session.state.inFlight).some(Boolean)) await sleep(MOVE_EVERY);
    for (const _ of this.moves) this.record("move", "error", { why: "its tokens never came" });
    closing.abort();
  }

  // The connection that tells the server that the page is open.
  async keepOpen(signal) {
    try {
      const reply = await fetch(`${options.url}gradio_api/heartbeat/${this.page}`, { signal });
      for await (const _ of reply.body);
    } catch {
      // the connection was cut: nothing depends on it
    }
  }

  async open() {
    const { k } = options;
    const u = Array.from({ length: k }, () => midpoint(stepOf(this.random(), RESOLUTION), RESOLUTION));
    const began = performance.now();
    const isTaken = await this.session.load({ pair: options.pair, prompt: this.prompt, u });
    if (isTaken) this.record("open", "done", { ms: performance.now() - began });
    return isTaken;
  }

  // Drags one slider to another value, one step every tenth of a second, and releases it.
  async drag() {
    const { session } = this;
    const slot = Math.floor(this.random() * session.state.k);
    const [from, to] = [session.state.u[slot], this.random()].map((value) => stepOf(value, RESOLUTION));
    const count = Math.floor(this.uniform(DRAG) / MOVE_EVERY);
    session.update(activated(session.state, slot));
    let due = Date.now();
    for (let n = 1; n <= count && due < until; n++) {
      this.move(slot, midpoint(Math.floor(from + ((to - from) * n) / count), RESOLUTION));
      due += MOVE_EVERY;
      await sleep(due - Date.now());
    }
    session.settle();
  }

  move(slot, value) {
    const state = slid(this.session.state, slot, value);
    this.moves.push({ seq: state.seq, began: performance.now() });
    this.isMoving = true;
    this.session.move(state);
    this.isMoving = false;
  }

  // Either the tokens of a move are drawn, which makes earlier pending moves out of date; or a request failed and the
  // page went back to the noise that was drawn before, under a newer sequence number.
  seeMoves(before, after) {
    const isBack = after.u === before.u && after.seq > before.seq;
    const known = this.moves.filter(({ seq }) => seq <= after.seq);
    this.moves = this.moves.filter(({ seq }) => seq > after.seq);
    for (const { seq, began } of known) {
      const ms = performance.now() - began;
      const isAtOnce = this.isMoving && seq === after.seq;
      if (isBack) this.record("move", "lost", { why: "no tokens came" });
      else for (const what of isAtOnce ? ["move"] : ["move", "move_asked"]) this.record(what, "done", { ms });
    }
  }

  async ask(name, question) {
    const began = performance.now();
    const body = { component_id: options.component, fn_name: name, data: question, session_hash: this.page };
    let reply;
    try {
      const response = await fetch(`${options.url}gradio_api/component_server/`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
        signal: AbortSignal.timeout(PATIENCE),
      });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      reply = await response.json();
    } catch (error) {
      this.record(name, "lost", { why: error.cause?.code || error.message });
      throw error;
    }
    const why = reply.ok ? mismatch(name, question, reply) : reply.failed;
    if (reply.busy) this.record(name, "busy");
    else if (why) this.record(name, "error", { why: reply.ok ? `not its own answer: ${why}` : why });
    else {
      this.record(name, "done", { ms: performance.now() - began });
      this.keep(name, question, reply);
    }
    return reply.ok && why ? undefined : reply;
  }

  // Keeps some of the answers; of a sweep, that at one random step.
  keep(name, { u }, reply) {
    if (this.kept >= options.keep || this.random() > KEEP_RATE) return;
    this.kept += 1;
    let answer = { ...reply, u };
    if (name === "tables") {
      const sweeps = readSweeps(reply);
      const sweep = sweeps[Math.floor(this.random() * sweeps.length)];
      const { every, resolution, k, slot } = sweep;
      const step = every * Math.floor((this.random() * resolution) / every) + Math.floor(every / 2);
      answer = { ...sweepAt(sweep, step, k), u: u.map((value, at) => (at === slot ? midpoint(step, resolution) : value)) };
    }
    answers.push({ prompt: this.prompt, u: answer.u, teacher: answer.teacher, student: answer.student });
  }
}

const gap = (1000 * RAMP * options.seconds) / options.prompts.length;
await Promise.all(options.prompts.map((prompt, n) => sleep(n * gap).then(() => new Client(n, prompt).run())));
const { user, system } = process.cpuUsage();
process.stdout.write(JSON.stringify({ events, answers, cpu: (user + system) / 1e6 }), () => process.exit());
