// A made-up pair of models behind the widget: each token depends on the prompt, all tokens before it and its noise.
// browser/played.py has the same `tokens` in Python, and puts this server into a page.

import { Session } from "../../../kfexplore/figures/assets/session.js";

export const EVIL = "<img src=x onerror=\"document.title='run'\">";
export const WORDS = [" the", " a", " little", EVIL, "\n", ",", " was", "ing", " dog", " cat"];
export const K = 3;
export const STEPS = 64;
export const START = [20, 40, 11].map((step) => (step + 0.5) / STEPS);
const MODELS = ["teacher", "student"];

export function tokens(model, prompt, u, temperature = 1) {
  const chosen = [];
  for (const value of u) {
    const letters = Array.from(`${model} ${prompt} ${chosen} ${Math.floor(16 * value)} ${temperature}`);
    const hash = letters.reduce((sum, letter) => (Math.imul(sum, 31) + letter.charCodeAt(0)) >>> 0, 7);
    chosen.push((hash >>> 8) % WORDS.length);
  }
  return chosen;
}

function packed({ buffer }) {
  return btoa(String.fromCharCode(...new Uint8Array(buffer)));
}

// Answers as the app's server does, and keeps what it was asked. `failing` names what it refuses, `busy` is how many of
// the next questions it has no time for, `every` how coarse its sweeps are.
export class Server {
  asked = [];
  failing = [];
  advice = "make app";
  busy = 0;
  every = 1;
  device = "cpu";
  hold = null; // or a promise that every reply waits for

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
    const { advice: run } = this;
    if (this.busy-- > 0) return { ok: false, seq, busy: true, failed: "The server is busy." };
    if (this.failing.includes(name)) {
      return { ok: false, seq, failed: `No ${name}.`, valid: "less", run, is_command: run.startsWith("make") };
    }
    return { ok: true, seq, texts: { ...WORDS }, ...this[name](question) };
  }

  point({ prompt, u, temperature }) {
    const [teacher, student] = MODELS.map((model) => tokens(model, prompt, u, temperature));
    return { teacher, student, margin: u.map(() => 0.5), edge: u.map(() => 0.25) };
  }

  tables(question) {
    const { pair, prompt, temperature = 1, resolution } = question;
    const { every, device } = this;
    const k = question.k ?? question.u.length;
    const u = [...question.u, ...START].slice(0, k);
    const slots = question.slots ?? u.map((_, slot) => slot);
    const middle = (at) => (Math.floor(every / 2) + at * every + 0.5) / resolution;
    const known = Array.from({ length: resolution / every }, (_, at) => middle(at));
    const cells = slots.flatMap((slot) => known.map((value) => u.map((old, at) => (at === slot ? value : old))));
    const [teacher, student] = MODELS.map((model) =>
      packed(Uint16Array.from(cells.flatMap((noise) => tokens(model, prompt, noise, temperature)))));
    const numbers = packed(Float32Array.from(cells.flat(), () => 0.5));
    const point = this.point({ prompt, u, temperature });
    const prompt_tokens = prompt.split(" ").map((word, id) => [id, word]);
    const trained = { low: 0.5, high: 1, note: "Not trained there." };
    const about = { pair, prompt, prompt_tokens, device, dtype: "float32", trained, k, k_max: K, u, temperature };
    return { ...about, resolution, slots, every, teacher, student, margin: numbers, edge: numbers, point };
  }

  grid({ slots, prompt, u, temperature }) {
    const resolution = 32;
    const sides = Array.from({ length: resolution }, (_, step) => (step + 0.5) / resolution);
    const at = (x, y) => u.map((value, slot) => (slot === slots[0] ? x : slot === slots[1] ? y : value));
    const pairs = (all) => slots.map((slot) => all[slot]);
    const [teacher, student] = MODELS.map((model) => packed(Uint16Array.from(
      sides.flatMap((x) => sides.flatMap((y) => pairs(tokens(model, prompt, at(x, y), temperature)))))));
    return { slots, resolution, agreement: 0.5, teacher, student };
  }

  // The reply with which a page opens.
  first({ prompt = "Once", ...more } = {}) {
    const question = { seq: 0, pair: "tales", prompt, u: START, k: K, resolution: STEPS, ...more };
    return { ...this.reply("tables", question), stored: true };
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
export function sessionOn(server = new Server(), first = server.first()) {
  const session = new Session(server.transport);
  session.take(first);
  return session;
}

// Lets replies arrive; with mocked timers no time passes.
export async function arrived() {
  for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
}
