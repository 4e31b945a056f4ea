// A made-up pair of models behind a session: each token depends on the prompt, all tokens before it and its noise.

import { Session } from "../../../kfexplore/figures/assets/session.js";

export const K = 3;
export const STEPS = 64;
export const START = [20, 40, 11].map((step) => (step + 0.5) / STEPS);

function hashed(value) {
  return Array.from(JSON.stringify(value)).reduce((sum, letter) => (Math.imul(sum, 31) + letter.charCodeAt(0)) >>> 0, 7);
}

export function tokens(model, prompt, u, temperature = 1) {
  const chosen = [];
  for (const value of u) chosen.push(hashed([model, prompt, chosen, Math.floor(8 * value), temperature]) % 1000);
  return chosen;
}

function packed(array) {
  return Buffer.from(array.buffer).toString("base64");
}

// Answers as the app's server does, and keeps what it was asked. `failing` names what it refuses, `busy` is how many of
// the next questions it has no time for, `every` how coarse its sweeps are.
export class Server {
  asked = [];
  failing = [];
  busy = 0;
  every = 1;
  device = "cpu";
  hold = null; // or a promise, for which every reply waits

  get transport() {
    const answer = (name) => async (question) => {
      this.asked.push({ name, ...structuredClone(question) });
      const reply = this.reply(name, question);
      await this.hold;
      return reply;
    };
    return { tables: answer("tables"), point: answer("point"), grid: answer("grid") };
  }

  reply(name, question) {
    const { seq } = question;
    if (this.busy-- > 0) return { ok: false, seq, busy: true, failed: "The server is busy." };
    if (this.failing.includes(name)) return { ok: false, seq, failed: `No ${name}.` };
    return { ok: true, seq, texts: {}, ...this[name](question) };
  }

  point({ prompt, u, temperature }) {
    const numbers = { margin: u.map(() => 0.5), edge: u.map(() => 0.25) };
    return { teacher: tokens("teacher", prompt, u, temperature), student: tokens("student", prompt, u, temperature), ...numbers };
  }

  tables(question) {
    const { pair, prompt, temperature = 1, resolution } = question;
    const k = question.k ?? question.u.length;
    const u = [...question.u, ...START].slice(0, k);
    const slots = question.slots ?? u.map((_, slot) => slot);
    const known = Array.from({ length: resolution / this.every }, (_, at) => Math.floor(this.every / 2) + at * this.every);
    const cells = slots.flatMap((slot) => known.map((step) => u.map((old, at) => (at === slot ? (step + 0.5) / resolution : old))));
    const sweep = (model) => packed(Uint16Array.from(cells.flatMap((noise) => tokens(model, prompt, noise, temperature))));
    const numbers = packed(Float32Array.from(cells.flat(), () => 0.5));
    return { pair, prompt, k, k_max: K, u, temperature, resolution, slots, every: this.every, device: this.device,
      dtype: "float32", teacher: sweep("teacher"), student: sweep("student"), margin: numbers, edge: numbers,
      point: this.point({ prompt, u, temperature }) };
  }

  grid({ slots, prompt, u, temperature }) {
    const resolution = 8;
    const sides = Array.from({ length: resolution }, (_, step) => (step + 0.5) / resolution);
    const at = (x, y) => u.map((value, slot) => (slot === slots[0] ? x : slot === slots[1] ? y : value));
    const cells = (model) => sides.flatMap((x) => sides.flatMap((y) => {
      const all = tokens(model, prompt, at(x, y), temperature);
      return slots.map((slot) => all[slot]);
    }));
    const [teacher, student] = ["teacher", "student"].map((model) => packed(Uint16Array.from(cells(model))));
    return { slots, resolution, agreement: 0.5, teacher, student };
  }

  first(more = {}) {
    return this.reply("tables", { seq: 0, pair: "tales", prompt: "Once", u: START, k: K, resolution: STEPS, ...more });
  }

  // The sweeps that were asked for, by slots.
  get sweeps() {
    return this.asked.filter(({ name }) => name === "tables").map(({ slots }) => slots);
  }

  get names() {
    return this.asked.map(({ name }) => name);
  }
}

// A session that shows the server's first reply.
export function opened(server = new Server(), first = server.first()) {
  const session = new Session(server.transport);
  session.take(first);
  return session;
}

// Lets replies arrive; with mocked timers no time passes.
export async function arrived() {
  for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
}
