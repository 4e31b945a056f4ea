// What a reader does, as another u or temperature for the figure: each of these ends in scrub.move.

const SMALL_STEP = 1;
const LARGE_STEP = 16;

function slideTo(scrub, slot, value, event) {
  scrub.rows.touch(slot);
  scrub.move(movedTo(scrub, slot, snapped(value, scrub.tables.resolution, strideOf(scrub, slot))), event);
  scrub.slid = slot;
}

function movedTo(scrub, slot, value) {
  // Without a server a page knows one track a slot: those through the tables' own point.
  const u = scrub.transport ? scrub.u.slice() : scrub.u.map((old, at) => scrub.tables.u[at] ?? old);
  u[slot] = value;
  return u;
}

// Steps of a slider from one that its row knows to the next.
function strideOf({ tables, u, k, temperature }, slot) {
  const row = tables.rows[slot];
  return rowFits(row, u, k, temperature) ? row.every : 1;
}

function stepByKey(scrub, slot, event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const { resolution } = scrub.tables;
  const size = Math.max(strideOf(scrub, slot), event.shiftKey ? LARGE_STEP : SMALL_STEP);
  const moves = {
    ArrowRight: size,
    ArrowUp: size,
    ArrowLeft: -size,
    ArrowDown: -size,
    PageUp: LARGE_STEP,
    PageDown: -LARGE_STEP,
    Home: -resolution,
    End: resolution,
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const step = stepOf(scrub.u[slot], resolution) + moves[event.key];
  slideTo(scrub, slot, midpoint(Math.min(resolution - 1, Math.max(0, step)), resolution), event);
}

function pickPoint(scrub, [i, j], x, y, event) {
  const { resolution } = scrub.tables;
  const u = scrub.transport ? scrub.u.slice() : movedTo(scrub, i, scrub.u[i]);
  u[i] = snapped(x, resolution);
  u[j] = snapped(y, resolution);
  scrub.rows.letGo();
  scrub.move(u, event);
}

function typeNumber(scrub, slot, field) {
  const text = field.value.trim();
  const value = /^\+?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : NaN;
  if (!(value >= 0 && value < 1)) {
    field.value = String(scrub.u[slot]);
    scrub.fail({ failed: `u is ${text || "empty"}.`, valid: "a number from 0 up to, not including, 1" }, true);
    field.scrollIntoView({ block: "nearest" }); // what is told takes room above it
  } else if (value !== scrub.u[slot]) {
    scrub.clearMessage();
    const held = scrub.transport ? value : snapped(value, scrub.tables.resolution);
    scrub.move(movedTo(scrub, slot, held), null, true);
  } else {
    scrub.clearMessage();
    field.value = String(value);
  }
}

function heatTo(scrub, temperature, event) {
  scrub.rows.letGo();
  scrub.temperature = temperature;
  scrub.move(scrub.u, event);
}

function resetNoise(scrub) {
  scrub.temperature = scrub.transport ? 1 : scrub.tables.temperature;
  const start = scrub.transport ? scrub.home : scrub.tables.u;
  scrub.move(scrub.u.map((old, slot) => (scrub.locked[slot] ? old : (start[slot] ?? old))), null, true);
}

function rollDice(scrub) {
  const { resolution } = scrub.tables;
  const held = (slot) => scrub.locked[slot] || slot >= scrub.k;
  const u = scrub.u.map((old, slot) => (held(slot) ? old : snapped(Math.random(), resolution)));
  scrub.move(u, null, true);
}
