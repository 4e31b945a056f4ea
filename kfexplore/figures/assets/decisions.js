// Decides what the page requests from the server, by pure functions of the state (state.js).
//
// point  the tokens at the current noise, if the page does not hold them
// sweep  the sweep of the active slider, so that the page has the tokens as it moves
// track  at rest: sweeps whose tracks are no longer valid, or came in coarse steps
// grid   at rest and visible: the two chosen slots
//
// A request is {kind, epoch, question}; the question is what is sent. One request of each kind is in flight at a time.

import { sweepFits } from "./codec.js";

// The requests to send now.
export function due(state) {
  return Object.values(wanted(state)).filter((request) => request && !state.inFlight[request.kind]);
}

// Whether the page would now send another request: then this one is not sent again to a busy server.
export function isSuperseded(state, request) {
  const now = wanted(state)[request.kind];
  return !now || now.epoch !== request.epoch || keyOf(now) !== keyOf(request);
}

// Whether sweeps or another context are missing.
export function isWaiting(state) {
  return state.isLoading || neededSweep(state) !== null || staleTracks(state).length > 0;
}

// What is missing, whether it is in flight or not.
function wanted(state) {
  if (!state.hasServer || !state.context) return {};
  if (state.isLoading) return { point: wantedPoint(state) };
  return { point: wantedPoint(state), sweep: wantedSweep(state), track: wantedTrack(state), grid: wantedGrid(state) };
}

// Coarse steps mean that many pages send requests: a move then waits for the sweep that it needs anyway.
function wantedPoint(state) {
  const waitsForSweep = neededSweep(state) !== null && state.tracks.some(({ sweep }) => sweep.every > 1);
  return state.point.status === "pending" && !waitsForSweep ? requestOf("point", state) : null;
}

function wantedSweep(state) {
  const slot = neededSweep(state);
  return slot === null ? null : sweepRequest("sweep", state, [slot], state.k);
}

// On a CPU one sweep at a time, so that the first arrives soon; a GPU computes all in nearly the time of one. A sweep
// that ends with its own slot is only a track, for which the server lets other requests go first.
function wantedTrack(state) {
  const slots = staleTracks(state);
  if (!slots.length) return null;
  if (state.context.device !== "cpu") return sweepRequest("track", state, slots, state.k);
  const [first] = slots;
  return sweepRequest("track", state, [first], sweepFits(state.tracks[first].sweep, state) ? state.k : first + 1);
}

function wantedGrid(state) {
  const { status, slots, data, isVisible } = state.grid;
  if (state.k < 2 || !isVisible || status !== "pending") return null;
  const isOther = !data || slots.some((slot, at) => slot !== data.slots[at]);
  if (!isOther && (!state.isSettled || staleTracks(state).length)) return null;
  return requestOf("grid", state, { slots });
}

// The active slot if its sweep is for other noise, else null.
function neededSweep(state) {
  const { activeSlot, k, tracks, refused, hasServer } = state;
  if (!hasServer || activeSlot === null || activeSlot >= k || refused.includes(activeSlot)) return null;
  return sweepFits(tracks[activeSlot].sweep, state) ? null : activeSlot;
}

// At rest, the slots whose tracks are needed, except the active slot if its sweep is needed.
function staleTracks(state) {
  if (!state.isSettled) return [];
  const active = neededSweep(state);
  const isStale = ({ status }, slot) => status === "pending" || (status === "known" && state.refine.includes(slot));
  const shown = state.tracks.slice(0, state.k);
  return shown.flatMap((track, slot) => (slot !== active && isStale(track, slot) ? [slot] : []));
}

function sweepRequest(kind, state, slots, k) {
  const { resolution } = state.context;
  return requestOf(kind, state, { u: state.u.slice(0, k), k, slots, resolution, yields: kind === "track" });
}

function requestOf(kind, { context, seq, epoch, u, k, temperature }, more) {
  const question = { seq, pair: context.pair, prompt: context.prompt, u: u.slice(0, k), temperature, ...more };
  return { kind, epoch, question };
}

// A sweep does not depend on the noise of its own slot.
function keyOf({ kind, question: { seq, slots, u, ...rest } }) {
  const free = slots && slots.length === 1 ? slots[0] : null;
  return JSON.stringify([kind, rest, slots, u.map((value, slot) => (slot === free ? null : value))]);
}

// The question for another context (pair, prompt, number of slots, noise or temperature); `change` has the new values.
export function openQuestion(state, change) {
  const { context, u, k, temperature } = state;
  const given = Object.fromEntries(Object.entries(change).filter(([, value]) => value !== undefined));
  const { pair, prompt, resolution } = context || { resolution: 512 };
  const question = { pair, prompt, temperature, resolution };
  // Another pair may have another number of slots; all of them are shown.
  if (given.pair === undefined || given.pair === pair) question.k = k;
  else if (given.u === undefined && given.k === undefined) question.fits = true;
  Object.assign(question, { u: u.slice(0, k) }, given);
  if (given.u === undefined) question.u = question.u.slice(0, question.k);
  else if (given.k === undefined) delete question.k; // the server takes the number of noise values
  return question;
}
