// The state of the widget, and pure functions from a state and an event or server reply to the next state.
// The page is drawn from the state and never read back.

import { fieldsOf, gridFits, lookUp, midpoint, readGrid, readSweeps, sized, snapped, stepOf, sweepFits, trackFits }
  from "./codec.js";

export const SMALL_STEP = 1;
export const LARGE_STEP = 16;
export const NO_ANSWER = {
  ok: false,
  failed: "The server gave no answer.",
  run: "move a slider; nothing on the page is lost",
};

// A status is "known", "pending" (requested, or to be requested) or "failed" (refused, or there is no server).
export function initialState(hasServer) {
  return {
    hasServer,
    context: null, // what is shown: {pair, prompt, k, kMax, u, temperature, point, resolution, device, ...}
    texts: {}, // by token id
    k: 0,
    u: [], // kMax noise values, of which the first k are shown
    temperature: 1,
    locked: [],
    initialNoise: [],
    tracks: [], // [{status, sweep}], one for each slot of the context
    point: { status: "pending", answer: null, source: null, seq: -1, u: [], temperature: 1 }, // the drawn tokens
    grid: { status: "pending", slots: [0, 1], data: null, isVisible: false, marksDifferences: false },
    activeSlot: null, // the slot whose slider the reader holds or points at
    lastMovedSlot: null, // the slot whose slider moved last, if nothing else changed since
    isSettled: true, // nothing moves
    playing: null, // the slider that plays: {slot, from}, `from` is the noise to which it returns
    refine: [], // slots whose coarse sweeps are requested again
    refused: [], // slots, or "grid", that the server refused since the reader's last action
    inFlight: { point: null, sweep: null, track: null, grid: null },
    seq: 0, // counts changes of noise and temperature
    epoch: 0, // counts contexts
    loads: 0, // counts requests for another context
    isLoading: false,
    isBusy: false,
    said: "",
    message: null, // {failed, valid, run, is_command, shown, asked, isTyped}
  };
}

// Returns the next state, with all derived fields recomputed.
function next(state, changes) {
  const made = { ...state, ...changes };
  if (!made.context) return made;
  const tracks = made.tracks.map((track, slot) => withStatus(track, made, slot, trackFits(track.sweep, made)));
  if (tracks.some((track, slot) => track !== made.tracks[slot])) made.tracks = tracks; // views compare
  made.grid = nextGrid(made);
  if (made.point.seq !== made.seq) {
    const found = lookUp(made);
    const { seq, u, temperature } = made;
    made.point = found ? { ...found, status: "known", seq, u, temperature } : { ...made.point, status: "pending" };
  }
  return made;
}

function withStatus(part, { hasServer, refused }, name, isKnown) {
  const status = isKnown ? "known" : hasServer && !refused.includes(name) ? "pending" : "failed";
  return part.status === status ? part : { ...part, status };
}

function nextGrid(state) {
  let { grid } = state;
  if (state.k > 1 && grid.slots[1] >= state.k) grid = { ...grid, slots: [0, 1] };
  if (state.k > 1 && grid.data && grid.data.slots[1] >= state.k) grid = { ...grid, data: null };
  return withStatus(grid, state, "grid", Boolean(grid.data) && gridFits(grid.data, grid.slots, state));
}

// ---- another context

// Applies a `tables` reply for another pair, prompt or number of slots. Throws if it is malformed.
// keepsNoise: the reader has moved a slider since the request.
export function opened(state, reply, keepsNoise = false) {
  const { temperature = 1, prompt_tokens: promptTokens = [], k_max: kMax, k } = reply;
  const sweeps = sized(readSweeps(reply), k);
  if (sweeps.some(({ slot }, at) => slot !== at)) throw new Error("sweeps are not in the order of the slots");
  for (const name of fieldsOf(reply.point)) sized(reply.point[name], k);
  const grid = reply.grid && reply.grid.ok !== false ? readGrid(reply.grid, { ...reply, temperature }) : null;

  const { pair, prompt, note, device, dtype, seconds, stored, trained, resolution, point } = reply;
  const context = { pair, prompt, promptTokens, note, k, kMax, u: reply.u, temperature, point, resolution, sweeps };
  const slots = Array.from({ length: kMax }, (_, slot) => slot);
  const initialNoise = slots.map((slot) => state.initialNoise[slot] ?? reply.u[slot] ?? 0.5);
  const made = next(state, {
    context: { ...context, device, dtype, seconds, stored, trained },
    texts: reply.texts,
    k,
    u: slots.map((slot) => reply.u[slot] ?? state.u[slot] ?? initialNoise[slot]),
    temperature,
    locked: state.locked.length === kMax ? state.locked : slots.map(() => false),
    initialNoise,
    tracks: sweeps.map((sweep) => ({ status: "known", sweep })),
    grid: { ...state.grid, data: grid, slots: grid ? grid.slots : state.grid.slots },
    activeSlot: null,
    lastMovedSlot: null,
    isSettled: true,
    playing: null,
    refine: [],
    refused: [],
    seq: state.seq + 1,
    epoch: state.epoch + 1,
    isLoading: false,
    message: null,
  });
  if (!keepsNoise) return made;
  const u = made.u.map((value, slot) => state.u[slot] ?? value);
  return moved(made, { u, k: Math.min(state.k, k), temperature: state.temperature });
}

export function loading(state) {
  return next(state, { loads: state.loads + 1, isLoading: true, message: null });
}

export function loadFailed(state, failure, pair) {
  return next(state, { isLoading: false, message: { ...failure, shown: state.context, asked: pair } });
}

// ---- actions of the reader

// All changes of noise, temperature or the number of slots go through this function.
function moved(state, change) {
  const message = state.message?.isTyped ? null : state.message;
  const seq = state.seq + 1;
  const stopped = { playing: null, lastMovedSlot: null, refine: [], refused: [] };
  return next(state, { ...stopped, ...change, seq, message, isSettled: false });
}

// The noise from which one slider moves. Without a server the page holds one sweep for each slot, all through the noise
// with which the context was opened.
function baseNoise({ hasServer, u, context }) {
  return hasServer ? u : u.map((value, slot) => context.u[slot] ?? value);
}

// Number of slider steps between two steps that its sweep holds.
export function strideOf(state, slot) {
  const { sweep } = state.tracks[slot];
  return sweepFits(sweep, state) ? sweep.every : 1;
}

export function activated(state, slot) {
  return next(state, { activeSlot: slot, refused: [] });
}

export function slid(state, slot, value) {
  const at = snapped(value, state.context.resolution, strideOf(state, slot));
  return moved(state, { u: baseNoise(state).with(slot, at), activeSlot: slot, lastMovedSlot: slot });
}

// Starts playing the slider that was last active, or the first.
export function playBegun(state) {
  const active = state.activeSlot ?? state.lastMovedSlot ?? 0;
  const slot = active < state.k ? active : 0;
  const from = state.u[slot];
  const begun = { playing: { slot, from }, activeSlot: slot, refused: [], isSettled: false };
  return state.hasServer ? next(state, begun) : moved(state, { ...begun, u: baseNoise(state).with(slot, from) });
}

// Moves the playing slider to a fraction of its range. It waits for its sweep, and stops if the sweep is refused.
export function playedTo(state, share) {
  const { playing, tracks, hasServer, refused } = state;
  if (!sweepFits(tracks[playing.slot].sweep, state)) {
    return hasServer && !refused.includes(playing.slot) ? state : next(state, { playing: null });
  }
  return { ...slid(state, playing.slot, share), playing };
}

// Returns the playing slider to its start.
export function playEnded(state) {
  const { slot, from } = state.playing;
  return moved(state, { u: state.u.with(slot, from), activeSlot: slot });
}

// Moves a slider by the steps of a key; null if the key does not move it.
export function slidByKey(state, slot, key, isShifted) {
  const { resolution } = state.context;
  const small = Math.max(strideOf(state, slot), isShifted ? LARGE_STEP : SMALL_STEP);
  const arrows = { ArrowRight: small, ArrowUp: small, ArrowLeft: -small, ArrowDown: -small };
  const steps = { ...arrows, PageUp: LARGE_STEP, PageDown: -LARGE_STEP, Home: -resolution, End: resolution };
  if (!(key in steps)) return null;
  const step = stepOf(state.u[slot], resolution) + steps[key];
  return slid(state, slot, midpoint(Math.min(resolution - 1, Math.max(0, step)), resolution));
}

// Applies a noise value typed for a slot; invalid text gives a message.
export function typed(state, slot, text) {
  const value = /^\+?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : NaN;
  if (!(value >= 0 && value < 1)) {
    const valid = "a number from 0 up to, not including, 1";
    return next(state, { message: { failed: `u is ${text || "empty"}.`, valid, isTyped: true } });
  }
  if (value === state.u[slot]) return next(state, { message: null });
  const at = state.hasServer ? value : snapped(value, state.context.resolution);
  return moved({ ...state, message: null }, { u: baseNoise(state).with(slot, at) });
}

// Applies a link that only changes the noise of the context shown; null if the server has to answer.
export function linkedNoise(state, { pair, prompt, k, u, temperature }) {
  const { context, isLoading } = state;
  const isShown = context && !isLoading && pair === context.pair && prompt === context.prompt && k <= context.k;
  if (!isShown || temperature !== state.temperature || u?.length !== k) return null;
  if (!u.every((value) => value >= 0 && value < 1)) return null;
  return moved({ ...state, message: null }, { k, u: [...u, ...state.u.slice(k)], activeSlot: null });
}

// Applies a point chosen in the grid: moves both sliders.
export function picked(state, [i, j], x, y) {
  const { resolution } = state.context;
  const u = baseNoise(state).with(i, snapped(x, resolution)).with(j, snapped(y, resolution));
  return moved(state, { u, activeSlot: null });
}

export function heated(state, temperature) {
  return moved(state, { temperature, activeSlot: null });
}

// Resets noise, locks and temperature to their initial values.
export function reset(state) {
  const { hasServer, context, initialNoise } = state;
  const start = hasServer ? initialNoise : context.u;
  const u = state.u.map((old, slot) => start[slot] ?? old);
  return moved(state, { u, locked: u.map(() => false), temperature: hasServer ? 1 : context.temperature });
}

export function diced(state, random = Math.random) {
  const isFixed = (slot) => state.locked[slot] || slot >= state.k;
  const { resolution } = state.context;
  return moved(state, { u: state.u.map((old, slot) => (isFixed(slot) ? old : snapped(random(), resolution))) });
}

export function lockToggled(state, slot) {
  return next(state, { locked: state.locked.with(slot, !state.locked[slot]) });
}

// Shows fewer slots: the first ones of the same sweeps, since no slot depends on a later one.
export function shortened(state, k) {
  return moved(state, { k });
}

export function settled(state) {
  return next(state, { isSettled: true });
}

// Marks sweeps that came in coarse steps, to be requested again.
export function refining(state) {
  const coarse = state.tracks.slice(0, state.k).flatMap(({ sweep }, slot) => (sweep.every > 1 ? [slot] : []));
  return next(state, { refine: coarse });
}

// change: {slots}, {isVisible} or {marksDifferences}.
export function gridChanged(state, change) {
  return next(state, { grid: { ...state.grid, ...change }, refused: state.refused.filter((each) => each !== "grid") });
}

// ---- replies of the server

// The server is busy and the request is repeated; `reply` is its busy reply, or null when this is over.
export function busy(state, reply) {
  return next(state, { isBusy: Boolean(reply), said: reply ? `${reply.failed} Trying again…` : "" });
}

export function said(state, text) {
  return next(state, { said: text });
}

export function messageCleared(state) {
  return next(state, { message: null });
}

export function asked(state, request) {
  return { ...state, inFlight: { ...state.inFlight, [request.kind]: request } };
}

// Applies the reply to a request; a busy reply, or one for another context, only clears the request.
export function answered(state, request, reply) {
  const { kind, epoch, question } = request;
  const free = next(state, { inFlight: { ...state.inFlight, [kind]: null } });
  if (reply.busy || epoch !== state.epoch) return free;
  try {
    if (reply.ok) return TAKE[kind](free, question, reply);
  } catch {
    reply = NO_ANSWER;
  }
  return REFUSE[kind](free, question, reply);
}

const TAKE = { point: tookPoint, sweep: tookSweeps, track: tookSweeps, grid: tookGrid };
const REFUSE = { point: pointRefused, sweep: sweepsRefused, track: sweepsRefused, grid: gridRefused };

// A message about mistyped input stays until the next move; other messages go when the server answers again.
function recovered({ message }) {
  return message?.isTyped ? message : null;
}

function isOutdated({ point, k }, { seq, u }) {
  return seq < point.seq || u.length < k;
}

// While a newer answer is due, this one is drawn, and the point stays pending.
function tookPoint(state, { seq, u, temperature }, { texts, ...answer }) {
  if (isOutdated(state, { seq, u })) return state;
  const isNewest = seq === state.seq;
  const point = { status: isNewest ? "known" : "pending", answer, source: "server", seq, u, temperature };
  const message = isNewest ? recovered(state) : state.message;
  return next(state, { point, texts: { ...state.texts, ...texts }, message });
}

function pointRefused(state, question, message) {
  if (isOutdated(state, question)) return state;
  const refused = next(state, { message });
  return question.seq === state.seq ? restored(refused) : refused;
}

// A move may have waited for a sweep: if the sweep is coarse, the moved slider snaps to one of its steps.
function tookSweeps(state, { slots }, reply) {
  const sweeps = readSweeps(reply);
  const tracks = state.tracks.map((track, slot) => {
    const sweep = sweeps.find((each) => each.slot === slot);
    return sweep ? { ...track, sweep } : track;
  });
  const refine = state.refine.filter((slot) => !slots.includes(slot));
  const made = { ...state, tracks, refine, texts: { ...state.texts, ...reply.texts }, message: recovered(state) };
  const { lastMovedSlot: slot, u } = state;
  if (state.point.status !== "pending" || slot === null || !sweepFits(tracks[slot].sweep, made)) return next(made, {});
  const at = snapped(u[slot], state.context.resolution, strideOf(made, slot));
  return next(made, { u: u.with(slot, at), seq: state.seq + 1 });
}

function sweepsRefused(state, { slots }, message) {
  const refine = state.refine.filter((slot) => !slots.includes(slot));
  const refused = next(state, { refused: [...state.refused, ...slots], refine, message });
  return refused.point.status === "pending" && !refused.inFlight.point ? restored(refused) : refused;
}

function tookGrid(state, question, reply) {
  const { grid } = state;
  if (question.slots.some((slot, at) => slot !== grid.slots[at])) return state;
  return next(state, { grid: { ...grid, data: readGrid(reply, question) } });
}

// Returns to the slots that are drawn.
function gridRefused(state, question, message) {
  const { grid } = state;
  const slots = grid.data ? grid.data.slots : grid.slots;
  return next(state, { grid: { ...grid, slots }, refused: [...state.refused, "grid"], message });
}

// After a failure: returns to the noise and temperature whose tokens are shown.
function restored(state) {
  const seq = state.seq + 1;
  const point = { ...state.point, status: "known", seq };
  const u = [...point.u, ...state.u.slice(point.u.length)];
  return next(state, { u, temperature: point.temperature, isSettled: true, seq, point });
}
