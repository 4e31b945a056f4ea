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

// A tables reply with its arrays decoded. Throws where a size is wrong, before anything on the page has changed.
function readTables(reply) {
  const { k, resolution } = reply;
  const size = k * resolution * k;
  sized(reply.u, k);
  for (const name of ["teacher", "student", "margin", "edge"]) sized(reply.point[name], k);
  return {
    ...reply,
    kMax: reply.k_max,
    promptTokens: reply.prompt_tokens || [],
    teacher: tokensOf(reply.teacher, size),
    student: tokensOf(reply.student, size),
    margin: floatsOf(reply.margin, size),
    edge: floatsOf(reply.edge, size),
  };
}

// A grid reply: [step of the earlier slot][step of the later slot][2 tokens], for both models.
function readGrid(reply, pair, prompt, u) {
  const size = reply.resolution * reply.resolution * 2;
  return {
    ...reply,
    pair,
    prompt,
    u: u.slice(),
    teacher: tokensOf(reply.teacher, size),
    student: tokensOf(reply.student, size),
  };
}

function stepOf(u, resolution) {
  return Math.min(resolution - 1, Math.max(0, Math.floor(u * resolution)));
}

function midpoint(step, resolution) {
  return (step + 0.5) / resolution;
}

function snapped(u, resolution) {
  return midpoint(stepOf(u, resolution), resolution);
}

// The row of one table: what all k slots become where slot `slot` stands on `step`.
function tableRow(tables, slot, step, k) {
  const from = (slot * tables.resolution + step) * tables.k;
  const row = (array) => Array.from(array.subarray(from, from + k));
  return {
    teacher: row(tables.teacher),
    student: row(tables.student),
    margin: row(tables.margin),
    edge: row(tables.edge),
  };
}

function movedSlots(tables, u, k) {
  const moved = [];
  for (let slot = 0; slot < k; slot++) if (u[slot] !== tables.u[slot]) moved.push(slot);
  return moved;
}

// The models' tokens at u as far as the tables hold them, or null. They hold the point they were computed
// at and, for one slot that has left it, every step midpoint.
function lookUp(tables, u, k) {
  if (k > tables.k) return null;
  const moved = movedSlots(tables, u, k);
  if (!moved.length) return { ...tables.point, source: tables.stored ? "stored" : "server" };
  const step = stepOf(u[moved[0]], tables.resolution);
  if (moved.length > 1 || midpoint(step, tables.resolution) !== u[moved[0]]) return null;
  return { ...tableRow(tables, moved[0], step, k), source: "table" };
}

// Two slots off the tables' point at once, without a server: the earlier slot's table is right up to the
// later one, the grid knows the later one, and what comes after it is unknown (null).
function lookUpPair(tables, grid, u, k) {
  const [first, second] = movedSlots(tables, u, k);
  const x = stepOf(u[first], grid.resolution);
  const y = stepOf(u[second], grid.resolution);
  const row = tableRow(tables, first, stepOf(u[first], tables.resolution), k);
  for (const model of ["teacher", "student"]) {
    row[model][second] = gridPair(grid, model, x, y)[1];
    row[model].fill(null, second + 1);
  }
  row.margin.fill(null, second);
  row.edge.fill(null, second);
  return { ...row, source: "table" };
}

function gridPair(grid, model, x, y) {
  const at = 2 * (x * grid.resolution + y);
  return [grid[model][at], grid[model][at + 1]];
}

// What a slot becomes along its own track, as runs of equal tokens: [{from, to, id}], steps, `to` exclusive.
function trackRuns(tables, model, slot) {
  const { k, resolution } = tables;
  const runs = [];
  for (let step = 0; step < resolution; step++) {
    const id = tables[model][(slot * resolution + step) * k + slot];
    const last = runs[runs.length - 1];
    if (last && last.id === id) last.to = step + 1;
    else runs.push({ from: step, to: step + 1, id });
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
