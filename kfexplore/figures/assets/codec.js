// Decodes the server's replies and looks up tokens in them.
//
// A sweep holds the tokens of all k slots as one slider moves while the others stay at `u`: arrays [step][slot] of
// tokens (`teacher`, `student`), of margins in logits and of edges in units of u. It holds the middle one of each
// `every` steps. The tokens of its own slot, as its noise goes from 0 to 1, are drawn as a track.
// A grid holds the tokens of two slots as both sliders move: [step of the earlier][step of the later][2].

// Browsers run on little-endian machines, so the bytes are used without conversion.
function decoded(Numbers, base64, length) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return sized(new Numbers(bytes.buffer), length);
}

// Throws if an array has another length.
export function sized(array, length) {
  if (array.length !== length) throw new Error(`got ${array.length} numbers, expected ${length}`);
  return array;
}

// Names of the arrays of an answer or sweep; without a student there are no learned tokens or margins.
export function fieldsOf(answer) {
  return answer.student ? ["teacher", "student", "margin", "edge"] : ["teacher", "edge"];
}

// The sweeps in a `tables` reply, one for each slot in `slots`. Throws if a size is wrong.
export function readSweeps(reply) {
  const { slots, u, k, temperature = 1, resolution, every } = reply;
  const size = (sized(u, k), (resolution / every) * k);
  const arrays = fieldsOf(reply).map((name) => {
    const Numbers = name === "teacher" || name === "student" ? Uint16Array : Float32Array;
    return [name, decoded(Numbers, reply[name], slots.length * size)];
  });
  return slots.map((slot, n) => {
    const own = arrays.map(([name, array]) => [name, array.subarray(n * size, (n + 1) * size)]);
    return { slot, u, k, temperature, resolution, every, ...Object.fromEntries(own) };
  });
}

// A grid reply with decoded tokens, and the pair, prompt, u and temperature for which it was computed.
export function readGrid(reply, { pair, prompt, u, temperature }) {
  const { slots, resolution, agreement, texts } = reply;
  const size = resolution * resolution * 2;
  const teacher = decoded(Uint16Array, reply.teacher, size);
  const student = reply.student && decoded(Uint16Array, reply.student, size);
  return { pair, prompt, u, temperature, slots, resolution, agreement, texts, teacher, student };
}

export function stepOf(u, resolution) {
  return Math.min(resolution - 1, Math.max(0, Math.floor(u * resolution)));
}

export function midpoint(step, resolution) {
  return (step + 0.5) / resolution;
}

// The middle of the step at u; with `every`, of the nearest step that a coarse sweep holds.
export function snapped(u, resolution, every = 1) {
  const step = stepOf(u, resolution);
  return midpoint(step - (step % every) + Math.floor(every / 2), resolution);
}

// Whether a sweep is valid for all k slots at this noise and temperature: it depends on all sliders except its own.
export function sweepFits(sweep, { u, k, temperature }) {
  if (sweep.k < k || sweep.temperature !== temperature) return false;
  return u.slice(0, k).every((value, slot) => slot === sweep.slot || value === sweep.u[slot]);
}

// Whether its track is valid: that depends only on the slots before it.
export function trackFits(sweep, { u, temperature }) {
  return sweep.temperature === temperature && u.slice(0, sweep.slot).every((value, slot) => value === sweep.u[slot]);
}

// Whether a grid shows these two slots at this noise.
export function gridFits(grid, slots, { context, u, temperature }) {
  if (grid.pair !== context.pair || grid.prompt !== context.prompt || grid.temperature !== temperature) return false;
  const isMoving = (slot) => slots.includes(slot);
  return grid.slots.every((slot, at) => slot === slots[at]) &&
    u.slice(0, slots[1]).every((value, slot) => isMoving(slot) || value === grid.u[slot]);
}

// The values of all k slots at a step of a sweep's slider, or at the nearest step that the sweep holds.
export function sweepAt(sweep, step, k) {
  const from = Math.floor(step / sweep.every) * sweep.k;
  return Object.fromEntries(fieldsOf(sweep).map((name) => [name, Array.from(sweep[name].subarray(from, from + k))]));
}

export function gridPair(grid, model, x, y) {
  const at = 2 * (x * grid.resolution + y);
  return [grid[model][at], grid[model][at + 1]];
}

// The tokens at the state's noise as {answer, source}, or null if the page does not hold them. It holds those at the
// noise with which the context was opened, and those at the steps of each sweep.
export function lookUp(state) {
  const { context, tracks, u, k, temperature, hasServer } = state;
  const off = u.slice(0, k).flatMap((value, slot) => (value === context.u[slot] ? [] : [slot]));
  if (!off.length && k <= context.k && temperature === context.temperature) {
    return { answer: context.point, source: context.stored ? "stored" : "server" };
  }
  for (const { sweep } of tracks.slice(0, k)) {
    const value = u[sweep.slot];
    if (sweepFits(sweep, state) && snapped(value, sweep.resolution, sweep.every) === value) {
      return { answer: sweepAt(sweep, stepOf(value, sweep.resolution), k), source: "table" };
    }
  }
  return hasServer ? null : { answer: pairAnswer(state, off), source: "table" };
}

// Without a server, two slots have moved: the earlier one's sweep is valid for the slots before the later one, whose
// token comes from the grid; later tokens are unknown (null).
function pairAnswer({ context, tracks, grid: { data }, u, k }, [first, second]) {
  const [x, y] = [first, second].map((slot) => stepOf(u[slot], data.resolution));
  const answer = sweepAt(tracks[first].sweep, stepOf(u[first], context.resolution), k);
  for (const name of fieldsOf(answer)) answer[name].fill(null, second);
  for (const model of ["teacher", "student"]) if (answer[model]) answer[model][second] = gridPair(data, model, x, y)[1];
  return answer;
}

// The tokens of a slot along its own track, as runs of equal tokens: [{from, to, id}], in steps, `to` exclusive.
export function trackRuns({ slot, k, resolution, every, ...sweep }, model) {
  const runs = [];
  for (let step = 0; step < resolution; step += every) {
    const id = sweep[model][(step / every) * k + slot];
    const last = runs[runs.length - 1];
    if (last && last.id === id) last.to = step + every;
    else runs.push({ from: step, to: step + every, id });
  }
  return runs;
}

export function runAt(runs, step) {
  return runs.find((run) => step < run.to) || runs[runs.length - 1];
}

// Stretches in which two lists of runs agree or differ: [{from, to, id, same}]; `id` is the exact token.
export function compareRuns(exact, learned) {
  const stretches = [];
  for (let i = 0, j = 0; i < exact.length && j < learned.length; ) {
    const from = Math.max(exact[i].from, learned[j].from);
    const to = Math.min(exact[i].to, learned[j].to);
    stretches.push({ from, to, id: exact[i].id, same: exact[i].id === learned[j].id });
    if (exact[i].to === to) i++;
    if (learned[j].to === to) j++;
  }
  return stretches;
}
