// The page's parts: built once for a number of slots, then only changed in place. Text goes in by textContent alone.

const PROMPT_SHOWN = 40;
const LETTERS_TOLD = 60;
const REST = 600;

function part(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function buildCell(slot) {
  const root = part("div", "kfs-cell");
  root.setAttribute("role", "listitem");
  const chip = (model) => {
    const node = part("span", `kfs-chip kfs-${model}`);
    node.dir = "auto";
    node.dataset.model = model;
    node.dataset.slot = slot + 1;
    return node;
  };
  const cell = {
    root,
    exact: chip("teacher"),
    learned: chip("student"),
    mark: part("span", "kfs-mark"),
    margin: part("span", "kfs-number"),
    edge: part("span", "kfs-number"),
  };
  cell.margin.title = "By how much the best logit of the learned map leads the second: near 0 it is undecided.";
  cell.edge.title = "Distance of u from the border of the exact token's band, in units of u.";
  const name = part("span", "kfs-slotname", `slot ${slot + 1}`);
  const said = (word) => part("span", "kfs-sr", ` ${word}: `);
  const learned = [said("learned"), cell.learned, cell.mark, cell.margin];
  for (const node of learned) node.classList.add("kfs-learned");
  root.append(name, said("exact"), cell.exact, ...learned, cell.edge);
  return cell;
}

function showChip(chip, id, label) {
  const key = id === null ? "" : String(id);
  if (chip.dataset.id === key && chip.textContent === label) return;
  chip.dataset.id = key;
  chip.textContent = label;
  chip.title = label;
  if (id === null) delete chip.dataset.hue;
  else chip.dataset.hue = hueOf(id);
}

function showCell(cell, tokens, labels) {
  showChip(cell.exact, tokens.exact, labels.exact);
  showChip(cell.learned, tokens.learned, labels.learned);
  const known = tokens.exact !== null && tokens.learned !== null;
  const same = known && tokens.exact === tokens.learned;
  setText(cell.mark, known ? (same ? "✓ agree" : "≠ differ") : "not known");
  cell.mark.classList.toggle("kfs-differs", known && !same);
  setText(cell.margin, `margin ${decimals(tokens.margin, 2)}`);
  setText(cell.edge, `edge ${significant(tokens.edge)}`);
}

// For those who hear the page: the whole block, once what is shown has come to rest; not at every step of a drag.
function tellAtRest(parts, sentence) {
  clearTimeout(parts.resting);
  const isFirst = parts.resting === undefined;
  parts.resting = isFirst ? null : setTimeout(() => setText(parts.told, sentence()), REST);
}

function significant(value) {
  return typeof value === "number" && Number.isFinite(value) ? String(Number(value.toPrecision(2))) : "–";
}

function decimals(value, digits) {
  return typeof value === "number" && Number.isFinite(value) ? value.toFixed(digits) : "–";
}

// One track: head with number field and lock, canvas, and the range input that lies over the canvas.
function buildRow(slot, uid) {
  const row = {
    root: part("div", "kfs-row"),
    field: part("input", "kfs-u"),
    lock: part("button", "kfs-button kfs-lock kfs-server", "Lock"),
    share: part("span", "kfs-share"),
    strip: part("div", "kfs-strip"),
    canvas: part("canvas"),
    range: part("input", "kfs-range"),
    track: null,
  };
  const head = part("div", "kfs-head");
  const label = part("label", "kfs-field", "u");
  const sub = part("sub", "", String(slot + 1));
  row.root.dataset.slot = slot + 1;
  row.field.type = "text";
  row.field.inputMode = "decimal";
  row.field.autocomplete = "off";
  row.field.id = `${uid}-u${slot + 1}`;
  row.field.setAttribute("aria-label", `u${slot + 1}, the noise of slot ${slot + 1} as an exact number`);
  label.append(sub, row.field);
  row.lock.type = "button";
  row.lock.title = "The dice leave a locked slot alone.";
  row.lock.setAttribute("aria-pressed", "false");
  row.lock.setAttribute("aria-label", `Lock slot ${slot + 1}`);
  head.append(part("span", "kfs-name", `Slot ${slot + 1}`), label, row.lock, row.share);
  row.canvas.setAttribute("aria-hidden", "true");
  Object.assign(row.range, { type: "range", min: "0", max: "1", step: "any" });
  row.range.setAttribute("aria-label", `Noise of slot ${slot + 1}`);
  row.strip.style.height = `${TRACK_HEIGHT}px`;
  row.strip.append(row.canvas, row.range);
  row.root.append(head, row.strip);
  return row;
}

function buildChoices(host, uid, most, onChoose) {
  host.textContent = "";
  host.append(part("legend", "", "Slots K"));
  for (let k = 1; k <= most; k++) {
    const label = part("label");
    const input = part("input");
    Object.assign(input, { type: "radio", name: `${uid}-k`, value: String(k) });
    input.onchange = () => onChoose(k);
    label.append(input, part("span", "", String(k)));
    host.append(label);
  }
}

// What the scripts write into, by class name; the markup is Python's (scrub_markup).
function findParts(root) {
  const names = ["message", "prompt", "note", "cells", "ks", "dice", "reset", "link", "said", "rows", "told"];
  names.push("heat", "degrees", "cold", "origin", "tip", "alone", "tracks", "map", "broken");
  const parts = { root, box: root.matches(".kfs") ? root : root.querySelector(".kfs") };
  for (const name of names) parts[name] = parts.box.querySelector(`.kfs-${name}`);
  return parts;
}

// Rows, chips and the K selector for up to `most` slots.
function buildSlots(parts, uid, most, onChoose) {
  parts.rows.textContent = "";
  parts.cells.textContent = "";
  const slots = [];
  const names = part("div", "kfs-cell kfs-rownames");
  const named = [part("span", "kfs-slotname"), part("span", "", "Exact"), part("span", "kfs-learned", "Learned")];
  for (const name of named) name.setAttribute("aria-hidden", "true");
  parts.agree = part("span", "kfs-agree");
  names.setAttribute("role", "listitem");
  names.append(...named, parts.agree);
  parts.cells.append(names);
  for (let slot = 0; slot < most; slot++) {
    const made = { row: buildRow(slot, uid), cell: buildCell(slot) };
    parts.rows.append(made.row.root);
    parts.cells.append(made.cell.root);
    slots.push(made);
  }
  buildChoices(parts.ks, uid, most, onChoose);
  return slots;
}

function showSlotCount(parts, slots, k) {
  slots.forEach(({ row, cell }, slot) => {
    row.root.hidden = slot >= k;
    cell.root.hidden = slot >= k;
  });
  parts.cells.style.setProperty("--slots", k);
  parts.cells.classList.toggle("kfs-many", k > 4); // on a narrow screen, two rows of chips leave no room for numbers
  parts.cells.style.setProperty("--columns", Math.min(k, 4)); // on a narrow screen
  for (const input of parts.ks.querySelectorAll("input")) input.checked = Number(input.value) === k;
}

function showPrompt(host, tokens) {
  host.textContent = "";
  host.append(part("span", "kfs-sr", "Prompt: "));
  const hidden = Math.max(0, tokens.length - PROMPT_SHOWN);
  if (hidden) host.append(part("span", "kfs-earlier", `… ${hidden} earlier ${hidden === 1 ? "token" : "tokens"} `));
  for (const [id, text] of tokens.slice(hidden)) {
    const token = part("span", "kfs-token", labelOf(text));
    token.dataset.hue = hueOf(id);
    host.append(token, part("wbr"));
  }
  if (!tokens.length) host.append(part("span", "kfs-earlier", "(no prompt)"));
}

// A part of a character, which no token's own text can show.
function isBroken(text) {
  return text.includes("\ufffd");
}

function showOrigin(host, tables) {
  const seconds = Number.isFinite(tables.seconds) ? ` in ${tables.seconds.toFixed(2)} s` : "";
  const kept = tables.stored ? ", stored with the page" : "";
  const every = Math.max(...tables.rows.map((row) => row.every));
  const [{ temperature }] = tables.rows;
  const heat = temperature === 1 ? "" : `, temperature ${temperature}`;
  const steps = `1/${tables.resolution / every}`;
  const coarse = every > 1 ? ` Many are asking: some tracks are in steps of ${steps} until there is time.` : "";
  host.textContent =
    `Model pair ${tables.pair} on ${tables.device}, ${tables.dtype}${heat}; ` +
    `${tables.resolution} steps a track, computed${seconds}${kept}.${coarse}`;
}

function showMessage(host, failure) {
  host.textContent = "";
  const { failed, valid, run, is_command: isCommand, shown, asked } = failure || {};
  if (failed) host.append(part("strong", "", sentence(failed)));
  if (valid) host.append(part("span", "", sentence(` Valid: ${valid}`)));
  if (run && isCommand) host.append(part("span", "", " Run: "), part("code", "", run));
  else if (run) host.append(part("span", "", sentence(` Try: ${run}`)));
  const by = shown && asked !== shown.pair ? ` by ${shown.pair}` : "";
  if (shown) host.append(part("span", "", ` Still shown: “${shortened(shown.prompt)}”${by}.`));
}

function sentence(text) {
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}

function shortened(text) {
  const letters = Array.from(text);
  return letters.length > LETTERS_TOLD ? `…${letters.slice(-LETTERS_TOLD).join("")}` : text;
}

// Tooltip of a track at a pointer: both bands, their intervals and their share of u.
function trackTip(track, step, text) {
  const line = (name, run) => {
    const from = (run.from / track.resolution).toFixed(3);
    const to = (run.to / track.resolution).toFixed(3);
    const share = (((run.to - run.from) / track.resolution) * 100).toFixed(1);
    return tipLine(name, text(run.id), hueOf(run.id), `[${from}, ${to})  ${share} % of u`);
  };
  const learned = track.learned.length ? [line("learned", runAt(track.learned, step))] : [];
  return [line("exact", runAt(track.exact, step)), ...learned];
}

function tipLine(name, label, hue, rest) {
  const line = part("div", `kfs-tipline kfs-tip-${name}`);
  const token = part("b", "kfs-chip", label);
  token.classList.add(name === "exact" ? "kfs-teacher" : "kfs-student");
  token.dataset.hue = hue;
  line.append(part("span", "kfs-tipname", name), token, part("span", "kfs-number", rest));
  return line;
}

// Puts the tooltip below a point of the page, inside the box.
function showTip(parts, lines, clientX, clientY) {
  const { tip, box } = parts;
  tip.replaceChildren(...lines);
  tip.hidden = false;
  const frame = box.getBoundingClientRect();
  const left = Math.min(Math.max(0, clientX - frame.left - tip.offsetWidth / 2), frame.width - tip.offsetWidth);
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = `${clientY - frame.top}px`;
}

function hideTip(parts) {
  parts.tip.hidden = true;
}
