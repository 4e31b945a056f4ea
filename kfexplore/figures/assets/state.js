// The state of the widget, and what an event or a server's reply makes of it: pure functions from a state to the next.
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

// A status is "known", "pending" (asked for, or about to be) or "failed" (refused, or there is no server to ask).
export function initialState(hasServer) {
  return {
    hasServer,
    context: null, // what is shown: {pair, prompt, k, kMax, u, temperature, point, resolution, device, ...}
    texts: {}, // of token ids
    k: 0,
    u: [], // kMax noise values, of which the first k are shown
    temperature: 1,
    locked: [],
    initialNoise: [],
    tracks: [], // [{status, sweep}], one for each slot of the context
    point: { status: "pending", answer: null, source: null, seq: -1, u: [], temperature: 1 }, // the drawn tokens
    grid: { status: "pending", slots: [0, 1], data: null, isVisible: false, marksDifferences: false },
    activeSlot: null, // whose slider the reader holds or points at
    lastMovedSlot: null, // where a slider was the last to move
    isSettled: true, // nothing moves
    playing: null, // the slider that moves by itself: {slot, from}, the noise to which it returns
    refine: [], // slots whose coarse sweeps are asked for once more
    refused: [], // slots, or "grid", that the server refused since the reader's last action
    inFlight: { point: null, sweep: null, track: null, grid: null },
    seq: 0, // counts changes of noise and temperature
    epoch: 0, // counts contexts
    loads: 0, // counts questions for another context
    isLoading: false,
    isBusy: false,
    said: "",
    message: null, // {failed, valid, run, is_command, shown, asked, isTyped}
  };
}

// Every function below ends here: what follows from the other fields is worked out anew.
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

// Takes a `tables` reply for another pair, prompt or number of slots. Throws where it is malformed.
// keepsNoise: the reader has moved a slider while it was on its way.
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

// ---- what the reader does

// The one way in which noise, temperature or the number of slots change.
function moved(state, change) {
  const message = state.message?.isTyped ? null : state.message;
  const seq = state.seq + 1;
  const stopped = { playing: null, lastMovedSlot: null, refine: [], refused: [] };
  return next(state, { ...stopped, ...change, seq, message, isSettled: false });
}

// The noise from which one slider moves. Without a server the page holds one sweep for each slot: those through the
// noise that the context was opened with.
function baseNoise({ hasServer, u, context }) {
  return hasServer ? u : u.map((value, slot) => context.u[slot] ?? value);
}

// Steps of a slider from one that its sweep holds to the next.
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

// The slider that was last active, or the first, is about to move by itself.
export function playBegun(state) {
  const active = state.activeSlot ?? state.lastMovedSlot ?? 0;
  const slot = active < state.k ? active : 0;
  const from = state.u[slot];
  const begun = { playing: { slot, from }, activeSlot: slot, refused: [], isSettled: false };
  return state.hasServer ? next(state, begun) : moved(state, { ...begun, u: baseNoise(state).with(slot, from) });
}

// It stands at a share of its way. It waits for its sweep, which then answers for every step, and stops where none comes.
export function playedTo(state, share) {
  const { playing, tracks, hasServer, refused } = state;
  if (!sweepFits(tracks[playing.slot].sweep, state)) {
    return hasServer && !refused.includes(playing.slot) ? state : next(state, { playing: null });
  }
  return { ...slid(state, playing.slot, share), playing };
}

// It is back where it began.
export function playEnded(state) {
  const { slot, from } = state.playing;
  return moved(state, { u: state.u.with(slot, from), activeSlot: slot });
}

// A slider moves by so many steps; null where the key is none of its keys.
export function slidByKey(state, slot, key, isShifted) {
  const { resolution } = state.context;
  const small = Math.max(strideOf(state, slot), isShifted ? LARGE_STEP : SMALL_STEP);
  const arrows = { ArrowRight: small, ArrowUp: small, ArrowLeft: -small, ArrowDown: -small };
  const steps = { ...arrows, PageUp: LARGE_STEP, PageDown: -LARGE_STEP, Home: -resolution, End: resolution };
  if (!(key in steps)) return null;
  const step = stepOf(state.u[slot], resolution) + steps[key];
  return slid(state, slot, midpoint(Math.min(resolution - 1, Math.max(0, step)), resolution));
}

// A number was typed for a slot's noise; what is no such number is a message.
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

// What a link says of the noise, where it is of the context that is shown; null where the server has to answer.
export function linkedNoise(state, { pair, prompt, k, u, temperature }) {
  const { context, isLoading } = state;
  const isShown = context && !isLoading && pair === context.pair && prompt === context.prompt && k <= context.k;
  if (!isShown || temperature !== state.temperature || u?.length !== k) return null;
  if (!u.every((value) => value >= 0 && value < 1)) return null;
  return moved({ ...state, message: null }, { k, u: [...u, ...state.u.slice(k)], activeSlot: null });
}

// A point of the grid was chosen: both of its sliders move.
export function picked(state, [i, j], x, y) {
  const { resolution } = state.context;
  const u = baseNoise(state).with(i, snapped(x, resolution)).with(j, snapped(y, resolution));
  return moved(state, { u, activeSlot: null });
}

export function heated(state, temperature) {
  return moved(state, { temperature, activeSlot: null });
}

// Noise, locks and temperature go back to where they began.
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

// Fewer slots are the first ones of the same sweeps, as no slot depends on a later one.
export function shortened(state, k) {
  return moved(state, { k });
}

export function settled(state) {
  return next(state, { isSettled: true });
}

// What came in coarse steps is asked for once more.
export function refining(state) {
  const coarse = state.tracks.slice(0, state.k).flatMap(({ sweep }, slot) => (sweep.every > 1 ? [slot] : []));
  return next(state, { refine: coarse });
}

// change: {slots}, {isVisible} or {marksDifferences}.
export function gridChanged(state, change) {
  return next(state, { grid: { ...state.grid, ...change }, refused: state.refused.filter((each) => each !== "grid") });
}

// ---- what the server says

// A busy server is asked again; busy is its reply, or null once that is over.
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

// Takes the reply to a request; one that was too busy, or asked for another context, only frees the way for the next.
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

// What the reader mistyped stays on the page until the next move; another message goes once the server answers again.
function recovered({ message }) {
  return message?.isTyped ? message : null;
}

function isOutdated({ point, k }, { seq, u }) {
  return seq < point.seq || u.length < k;
}

// While a newer answer is due this one is drawn, and the point stays pending.
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

// A move may have waited for a sweep: where that holds only some steps, the slider that moved goes to one of them.
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

// Back to the slots that are drawn.
function gridRefused(state, question, message) {
  const { grid } = state;
  const slots = grid.data ? grid.data.slots : grid.slots;
  return next(state, { grid: { ...grid, slots }, refused: [...state.refused, "grid"], message });
}

// After a failure: back to the noise and the temperature whose tokens are on the page.
function restored(state) {
  const seq = state.seq + 1;
  const point = { ...state.point, status: "known", seq };
  const u = [...point.u, ...state.u.slice(point.u.length)];
  return next(state, { u, temperature: point.temperature, isSettled: true, seq, point });
}
