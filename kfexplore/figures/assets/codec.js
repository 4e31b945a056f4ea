// Reading what the server sends: byte strings to typed arrays, look-ups in the tables, runs of equal tokens.

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

// Every browser in use runs on a little-endian machine, so the bytes can be viewed as they are.
function tokensOf(base64, length) {
  return sized(new Uint16Array(bytesOf(base64).buffer), length);
}

function floatsOf(base64, length) {
  return sized(new Float32Array(bytesOf(base64).buffer), length);
}

function sized(array, length) {
  if (array.length !== length) throw new Error(`${array.length} numbers came where ${length} were due`);
  return array;
}

// What an answer, or a row, consists of; without a student there are neither learned tokens nor margins.
function answered(answer) {
  return answer.student ? ["teacher", "student", "margin", "edge"] : ["teacher", "edge"];
}

// A tables reply with its rows decoded. Throws where a size is wrong, before anything on the page has changed.
function readTables(reply) {
  for (const name of answered(reply.point)) sized(reply.point[name], reply.k);
  const rows = readRows(reply);
  if (rows.some((row, slot) => row.slot !== slot)) throw new Error("rows are not in the order of the slots");
  const { temperature = 1, prompt_tokens: promptTokens = [] } = reply;
  return { ...reply, kMax: reply.k_max, promptTokens, temperature, rows: sized(rows, reply.k) };
}

// What all k slots become as one slider moves, the others where `u` says: one row for each slider that was asked for.
// It was computed at the middle one of every so many steps.
function readRows({ slots, u, k, temperature = 1, resolution, every, teacher, student, margin, edge }) {
  sized(u, k);
  const steps = resolution / every;
  const size = steps * k;
  const arrays = { teacher: tokensOf(teacher, slots.length * size), edge: floatsOf(edge, slots.length * size) };
  if (student) {
    arrays.student = tokensOf(student, slots.length * size);
    arrays.margin = floatsOf(margin, slots.length * size);
  }
  return slots.map((slot, n) => {
    const row = { slot, u, k, temperature, resolution, every };
    for (const [name, array] of Object.entries(arrays)) row[name] = array.subarray(n * size, (n + 1) * size);
    return row;
  });
}

// A grid reply: [step of the earlier slot][step of the later slot][2 tokens], for both models.
function readGrid(reply, { pair, prompt, u, temperature }) {
  const size = reply.resolution * reply.resolution * 2;
  return {
    ...reply,
    pair,
    prompt,
    temperature,
    u: u.slice(),
    teacher: tokensOf(reply.teacher, size),
    student: reply.student && tokensOf(reply.student, size),
  };
}

function stepOf(u, resolution) {
  return Math.min(resolution - 1, Math.max(0, Math.floor(u * resolution)));
}

function midpoint(step, resolution) {
  return (step + 0.5) / resolution;
}

// The middle of a step; where a row knows one step in `every`, of the nearest that it knows.
function snapped(u, resolution, every = 1) {
  const step = stepOf(u, resolution);
  return midpoint(step - (step % every) + Math.floor(every / 2), resolution);
}

// What all k slots become where a row's slider stands on, or next to, a step.
function rowAt(row, step, k) {
  const from = Math.floor(step / row.every) * row.k;
  return Object.fromEntries(answered(row).map((name) => [name, Array.from(row[name].subarray(from, from + k))]));
}

function movedSlots(tables, u, k) {
  const moved = [];
  for (let slot = 0; slot < k; slot++) if (u[slot] !== tables.u[slot]) moved.push(slot);
  return moved;
}

// Whether a row is that of u and of a temperature: it depends on the noise of the other slots. Its own track depends on
// those before it alone.
function rowFits(row, u, k, temperature) {
  return row.k >= k && row.temperature === temperature && u.slice(0, k).every((value, slot) => slot === row.slot || value === row.u[slot]);
}

function trackFits(row, u, temperature) {
  return row.temperature === temperature && u.slice(0, row.slot).every((value, slot) => value === row.u[slot]);
}

// The models' tokens at u as far as the page holds them, or null. It holds those of the point that the tables were
// computed at and, of each slider's row, those at the steps that it knows.
function lookUp(tables, u, k, temperature) {
  if (k <= tables.k && tables.temperature === temperature && !movedSlots(tables, u, k).length) {
    return { ...tables.point, source: tables.stored ? "stored" : "server" };
  }
  for (const row of tables.rows) {
    const value = u[row.slot];
    if (row.slot < k && rowFits(row, u, k, temperature) && snapped(value, row.resolution, row.every) === value) {
      return { ...rowAt(row, stepOf(value, row.resolution), k), source: "table" };
    }
  }
  return null;
}

// Two slots off the tables' point at once, without a server: the earlier slot's row is right up to the
// later one, the grid knows the later one, and what comes after it is unknown (null).
function lookUpPair(tables, grid, u, k) {
  const [first, second] = movedSlots(tables, u, k);
  const x = stepOf(u[first], grid.resolution);
  const y = stepOf(u[second], grid.resolution);
  const answer = rowAt(tables.rows[first], stepOf(u[first], tables.resolution), k);
  for (const name of answered(answer)) answer[name].fill(null, second);
  for (const model of ["teacher", "student"]) if (answer[model]) answer[model][second] = gridPair(grid, model, x, y)[1];
  return { ...answer, source: "table" };
}

function gridPair(grid, model, x, y) {
  const at = 2 * (x * grid.resolution + y);
  return [grid[model][at], grid[model][at + 1]];
}

// What a slot becomes along its own track, as runs of equal tokens: [{from, to, id}], steps, `to` exclusive.
function trackRuns(row, model) {
  const { slot, k, resolution, every } = row;
  const runs = [];
  for (let step = 0; step < resolution; step += every) {
    const id = row[model][(step / every) * k + slot];
    const last = runs[runs.length - 1];
    if (last && last.id === id) last.to = step + every;
    else runs.push({ from: step, to: step + every, id });
  }
  return runs;
}

function runAt(runs, step) {
  return runs.find((run) => step < run.to) || runs[runs.length - 1];
}

// Where two rows of runs agree and where they part: [{from, to, id, same}], `id` the exact token.
function compareRuns(exact, learned) {
  const parts = [];
  let i = 0;
  let j = 0;
  while (i < exact.length && j < learned.length) {
    const from = Math.max(exact[i].from, learned[j].from);
    const to = Math.min(exact[i].to, learned[j].to);
    parts.push({ from, to, id: exact[i].id, same: exact[i].id === learned[j].id });
    if (exact[i].to === to) i++;
    if (learned[j].to === to) j++;
  }
  return parts;
}

function sharedSteps(parts) {
  return parts.reduce((sum, part) => sum + (part.same ? part.to - part.from : 0), 0);
}

// Math.imul keeps the low 32 bits of the product; a plain product would lose them past 2^53.
function hueOf(id) {
  return Math.floor(((Math.imul(id, PALETTE.multiplier) >>> 0) * PALETTE.hues) / 2 ** 32);
}

const MARKED = new RegExp(`[${Object.keys(PALETTE.marks).map(escaped).join("")}${PALETTE.hidden}]`, "g");

function escaped(character) {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

// The visible text of a token: no blank, line end or control character goes unseen.
function labelOf(text) {
  if (text === undefined || text === null) return "�";
  const marked = text.replace(MARKED, (found) => PALETTE.marks[found] || `‹${found.charCodeAt(0).toString(16)}›`);
  return marked || PALETTE.empty;
}
