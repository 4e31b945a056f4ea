// The connection of one widget to the server: holds the state, sends the requests that decisions.js returns, and passes
// replies to state.js. It does not use the page, so it also runs under Node.
//
// transport: {tables, point, grid}, functions from a question to a promise of a reply; null without a server. A reply
// is {ok: true, ...}, {ok: false, busy, failed, valid, run, is_command} or, where the server raised, undefined.

import { due, isSuperseded, openQuestion } from "./decisions.js";
import { NO_ANSWER, answered, asked, busy, initialState, loadFailed, loading, opened, refining, said, settled }
  from "./state.js";

// Milliseconds.
export const SETTLE = 120;
export const REFINE = 5000;
const PATIENCE = 180000;
const LOAD_PATIENCE = 1800000; // the first request for a pair may have to fetch its models
const PATIENCE_SHOWN = 400;
const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 4000;
const FUNCTIONS = { point: "point", sweep: "tables", track: "tables", grid: "grid" };

// Sends a request, and repeats it at growing intervals while the server is busy, until isOver(); then returns the busy
// reply. onBusy(reply) is called with each busy reply, and with null after the last.
export async function ask(send, question, { patience = PATIENCE, isOver = () => false, onBusy = () => {} } = {}) {
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, patience)));
  const pause = (time) => Promise.race([new Promise((resolve) => setTimeout(resolve, time)), late]);
  const isOurs = (reply) => reply && typeof reply.ok === "boolean" && [undefined, question.seq].includes(reply.seq);
  try {
    let reply = await Promise.race([send(question), late]);
    for (let time = FIRST_PAUSE; reply && reply.busy; time = Math.min(2 * time, LONGEST_PAUSE)) {
      onBusy(reply);
      await pause(time * (0.5 + Math.random()));
      const isEnough = isOver();
      if (!isEnough) reply = await Promise.race([send(question), late]);
      if (isEnough || !reply || !reply.busy) onBusy(null);
      if (isEnough) break;
    }
    return isOurs(reply) ? reply : NO_ANSWER;
  } catch {
    return NO_ANSWER;
  } finally {
    clearTimeout(timer);
  }
}

export class Session {
  // onChange(before, state) is called after every change; onRest() when changes have settled.
  constructor(transport, onChange = () => {}, onRest = () => {}) {
    this.transport = transport;
    this.onChange = onChange;
    this.onRest = onRest;
    this.state = initialState(Boolean(transport));
  }

  update(state) {
    const before = this.state;
    this.state = state;
    this.onChange(before, state);
    for (const request of due(this.state)) this.send(request);
  }

  // Applies the reader's change of noise, temperature or slots; requests for tracks wait until the move settles.
  move(state, isAtRest = false) {
    this.update(state);
    if (!this.transport || this.state.isSettled) return;
    clearTimeout(this.refineTimer);
    clearTimeout(this.settleTimer);
    if (isAtRest) this.settle();
    else this.settleTimer = setTimeout(() => this.settle(), SETTLE);
  }

  settle() {
    clearTimeout(this.settleTimer);
    if (!this.transport || this.state.isSettled) return;
    this.update(settled(this.state));
    clearTimeout(this.refineTimer);
    this.refineTimer = setTimeout(() => this.update(refining(this.state)), REFINE);
    this.onRest();
  }

  async send(request) {
    this.state = asked(this.state, request);
    const reply = await ask(this.transport[FUNCTIONS[request.kind]], request.question, {
      isOver: () => isSuperseded(this.state, request),
      onBusy: (reply) => this.update(busy(this.state, reply)),
    });
    const { u } = this.state;
    this.update(answered(this.state, request, reply));
    if (this.state.u !== u) this.onRest();
  }

  // Requests another context; only an ok reply to the newest call changes the context. Returns whether it did, or null
  // if there is a newer call.
  async load(change) {
    if (!this.transport) return false;
    this.update(loading(this.state));
    const { loads, seq } = this.state;
    const question = { seq: loads, ...openQuestion(this.state, change) };
    clearTimeout(this.patience);
    this.patience = setTimeout(() => this.update(said(this.state, "Computing…")), PATIENCE_SHOWN);
    const reply = await ask(this.transport.tables, question, {
      patience: LOAD_PATIENCE,
      isOver: () => loads !== this.state.loads,
      onBusy: (reply) => this.update(busy(this.state, reply)),
    });
    if (loads !== this.state.loads) return null;
    clearTimeout(this.patience);
    const hasMoved = this.state.seq !== seq && change.u === undefined && change.temperature === undefined;
    const isTaken = this.take(reply, hasMoved, question.pair);
    this.settle();
    if (isTaken) this.onRest();
    return isTaken;
  }

  // Applies a reply with another context. Returns whether it is valid.
  take(reply = NO_ANSWER, hasMoved = false, pair = undefined) {
    const before = said(this.state, "");
    let state = null;
    try {
      if (reply.ok) state = opened(before, reply, hasMoved);
    } catch {
      reply = NO_ANSWER;
    }
    this.update(state || loadFailed(before, reply, pair));
    return Boolean(state);
  }
}
