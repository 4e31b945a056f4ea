// Draws the state: sliders, tokens, tracks and texts. The markup is in scrub.html; text is set only by textContent.

import { compareRuns, runAt, trackRuns } from "./codec.js";
import { isWaiting } from "./decisions.js";
import { TRACK, paintTrack } from "./paint.js";
import { savePicture } from "./save.js";
import { coloursOf, hueOf, isBroken, labelOf, sentenceOf, showSentence, spokenLine } from "./tokens.js";

const LETTERS_SHOWN = 60;
const REST = 600; // milliseconds until a screen reader reads the block
const PARTS = ["message", "passes", "exactline", "learnedline", "note", "cells", "agree", "ks", "dice", "play", "reset",
  "said", "rows", "told", "heat", "degrees", "cold", "origin", "tip", "broken", "newcell",
  "newrow", "savetracks"];
const CELL_PARTS = ["nth", "teacher", "student", "mark", "margin", "edge"];
const ROW_PARTS = ["name", "field", "u", "lock", "share", "track", "range"];

export function node(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function setText(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

export function partsOf(root, names) {
  return Object.fromEntries(names.map((name) => [name, root.querySelector(`.kfs-${name}`)]));
}

export class View {
  // listen(row, slot) is called for each new slider.
  constructor(root, listen) {
    this.root = root;
    this.box = root.matches(".kfs") ? root : root.querySelector(".kfs");
    this.parts = partsOf(this.box, PARTS);
    this.listen = listen;
    this.uid = Math.random().toString(36).slice(2, 9);
    this.slots = [];
  }

  // Updates only what has changed: this runs at every step of a drag.
  render(before, state) {
    const { parts } = this;
    const has = (...names) => names.some((name) => before[name] !== state[name]);
    if (has("message")) showMessage(parts.message, state.message);
    setText(parts.said, state.said);
    this.expose("busy", state.isBusy);
    this.box.classList.toggle("kfs-loading", state.isLoading);
    if (!state.context) return;
    this.text = (id) => (id === null ? "?" : labelOf(state.texts[id]));
    if (has("context")) this.showContext(state);
    if (has("context", "texts")) this.showLegend(state);
    if (has("context", "k", "isLoading")) this.showSlotCount(state.k);
    if (has("context", "k", "u", "temperature")) this.showNoise(state);
    if (has("locked")) this.showLocks(state.locked);
    setText(parts.play, state.playing ? "Stop" : "Play");
    if (has("context", "tracks", "k")) this.showTracks(state, has("context", "k"));
    if (has("context", "point", "k")) this.showPoint(state, sentenceOf(state));
    this.expose("source", state.point.status === "pending" ? "pending" : state.point.source);
    this.expose("seq", state.point.seq);
    this.expose("tables", isWaiting(state) ? "waiting" : "ready");
  }

  // For tests, and for scripts that read the page.
  expose(name, value) {
    if (this.root.dataset[name] !== String(value)) this.root.dataset[name] = value;
  }

  showContext({ context, hasServer }) {
    const { parts } = this;
    if (this.slots.length !== context.kMax) this.buildSlots(context.kMax);
    parts.note.hidden = !context.note;
    parts.note.textContent = context.note || "";
    this.box.classList.toggle("kfs-noserver", !hasServer);
    this.box.classList.toggle("kfs-exactonly", !context.point.student);
  }

  // Creates a row, a cell and a choice of K for each slot.
  buildSlots(kMax) {
    const { parts, uid } = this;
    const make = (template, names) => {
      const root = template.content.firstElementChild.cloneNode(true);
      return { root, ...partsOf(root, names) };
    };
    parts.rows.replaceChildren();
    parts.cells.replaceChildren(parts.cells.firstElementChild);
    parts.ks.replaceChildren(node("legend", "", "Slots K"));
    this.slots = Array.from({ length: kMax }, (_, slot) => {
      const n = slot + 1;
      const row = { ...make(parts.newrow, ROW_PARTS), drawn: null, sweep: null };
      row.canvas = row.track.querySelector("canvas");
      row.root.dataset.slot = n;
      row.name.textContent = `Slot ${n}`;
      row.field.querySelector("sub").textContent = n;
      row.u.ariaLabel = `u${n}, the noise of slot ${n} as a number`;
      row.range.ariaLabel = `Noise of slot ${n}`;
      const cell = make(parts.newcell, CELL_PARTS);
      cell.nth.textContent = `slot ${n}`;
      for (const chip of [cell.teacher, cell.student]) chip.dataset.slot = n;
      const choice = node("label");
      const radio = Object.assign(node("input"), { type: "radio", name: `${uid}-k`, value: n });
      choice.append(radio, node("span", "", n));
      parts.rows.append(row.root);
      parts.cells.append(cell.root);
      parts.ks.append(choice);
      this.listen(row, slot);
      return { row, cell, radio };
    });
  }

  showSlotCount(k) {
    const { cells, passes } = this.parts;
    setText(passes, `: teacher, ${k} ${k === 1 ? "pass" : "passes"}`);
    this.slots.forEach(({ row, cell, radio }, slot) => {
      row.root.hidden = cell.root.hidden = slot >= k;
      radio.checked = slot === k - 1;
    });
    cells.style.setProperty("--slots", k);
    cells.style.setProperty("--columns", Math.min(k, 4)); // on a narrow screen
    cells.classList.toggle("kfs-many", k > 4); // on a narrow screen, two rows of chips have no room for numbers
  }

  showNoise({ u, k, temperature, context: { trained } }) {
    const { heat, degrees, cold } = this.parts;
    for (let slot = 0; slot < k; slot++) {
      const { row } = this.slots[slot];
      row.u.title = `u = ${u[slot]}`;
      for (const [input, value] of [[row.range, String(u[slot])], [row.u, noiseText(u[slot])]]) {
        if (input.value !== value) input.value = value;
      }
    }
    if (Number(heat.value) !== temperature) heat.value = temperature;
    setText(degrees, String(temperature));
    const isTrained = !trained || (temperature >= trained.low && temperature <= trained.high);
    setText(cold, isTrained ? "" : trained.note);
    this.expose("u", u.slice(0, k).join(","));
    this.expose("k", k);
    this.expose("temperature", temperature);
  }

  showLocks(locked) {
    this.slots.forEach(({ row: { lock } }, slot) => {
      lock.textContent = locked[slot] ? "Locked" : "Lock";
      lock.ariaPressed = locked[slot];
      lock.ariaLabel = `${lock.textContent} slot ${slot + 1}`;
    });
  }

  showPoint({ point: { answer }, u, k }, block) {
    let [agreeing, known] = [0, 0];
    for (let slot = 0; slot < k; slot++) {
      const { row, cell } = this.slots[slot];
      const [exact, learned] = ["teacher", "student"].map((model) => (answer[model] ? answer[model][slot] : null));
      const same = exact !== null && exact === learned;
      known += exact !== null;
      agreeing += same;
      showChip(cell.teacher, exact, this.text(exact));
      showChip(cell.student, learned, this.text(learned));
      setText(cell.mark, exact === null || learned === null ? "not known" : same ? "✓ agree" : "≠ differ");
      cell.mark.classList.toggle("kfs-differs", exact !== null && learned !== null && !same);
      setText(cell.margin, shownNumber(answer.margin?.[slot], (value) => value.toFixed(2)));
      setText(cell.edge, shownNumber(answer.edge[slot], (value) => String(Number(value.toPrecision(2)))));
      const spoken = `${u[slot].toFixed(3)}, exact ${this.text(exact)}`;
      row.range.ariaValueText = answer.student ? `${spoken}, learned ${this.text(learned)}` : spoken;
    }
    const agree = `${agreeing} of ${known} ${known < k ? "known " : ""}${known === 1 ? "slot agrees" : "slots agree"}`;
    setText(this.parts.agree, answer.student ? agree : "");
    showSentence({ teacher: this.parts.exactline, student: this.parts.learnedline }, block);
    const { teacher, student } = block.lines;
    const learned = student ? ` Learned: ${sentence(spokenLine(student))}` : "";
    this.readOut(`${student ? `${agree}. ` : ""}Exact: ${sentence(spokenLine(teacher))}${learned}`);
  }

  // For screen readers: the block, when it has settled, except the first one.
  readOut(text) {
    clearTimeout(this.resting);
    const isFirst = this.resting === undefined;
    this.resting = isFirst ? null : setTimeout(() => setText(this.parts.told, text), REST);
  }

  showTracks({ tracks, k, hasServer, context }, isNew) {
    tracks.forEach(({ status, sweep }, slot) => {
      const { row } = this.slots[slot];
      if (row.sweep !== sweep) {
        const exact = trackRuns(sweep, "teacher");
        const learned = sweep.student ? trackRuns(sweep, "student") : [];
        Object.assign(row, { sweep, drawn: { exact, learned, stretches: compareRuns(exact, learned), ...sweep } });
        row.track.style.height = `${TRACK.exact + (sweep.student ? TRACK.lane + TRACK.learned : 0)}px`;
        this.paint(row);
      } else if (isNew) this.paint(row);
      row.root.classList.toggle("kfs-stale", status !== "known");
      row.track.ariaBusy = status === "pending" && slot < k;
      setText(row.share, status !== "known" && !hasServer ? "track of the starting noise" : shareText(row.drawn));
      row.range.ariaDescription = row.share.textContent;
    });
    setText(this.parts.origin, originText(context, tracks));
  }

  // After a change of theme or width; a hidden row is painted when it is shown.
  repaint(theme) {
    this.colours = coloursOf(theme);
    for (const { row } of this.slots) if (row.drawn) this.paint(row);
  }

  paint(row) {
    if (this.colours) paintTrack(row.canvas, row.drawn, this.colours, this.text);
  }

  // Saves all tracks as drawn, below the block as text.
  saveTracks(state) {
    const { earlier, prompt, lines } = sentenceOf(state);
    const begun = `${earlier ? "…" : ""}${spokenLine(prompt)} `;
    const said = [["Exact", lines.teacher], ["Learned", lines.student]].filter(([, tokens]) => tokens);
    const texts = said.map(([name, tokens]) => `${name}: ${begun}${spokenLine(tokens)}`);
    const panels = this.slots.slice(0, state.k).map(({ row }, slot) => {
      return { label: `Slot ${slot + 1}: u = ${noiseText(state.u[slot])}`, canvas: row.canvas };
    });
    savePicture("kfexplore-tracks.png", texts, panels, false, this.colours);
  }

  showLegend({ texts, context: { promptTokens } }) {
    this.parts.broken.hidden = ![...Object.values(texts), ...promptTokens.map(([, text]) => text)].some(isBroken);
  }

  // Tooltip for both bands of a track at the pointer, with their intervals and fractions of u.
  showTrackTip({ drawn }, step, x, y) {
    const line = (name, run) => {
      const [from, to] = [run.from, run.to].map((each) => (each / drawn.resolution).toFixed(3));
      const share = (((run.to - run.from) / drawn.resolution) * 100).toFixed(1);
      return tipLine(name, this.text(run.id), hueOf(run.id), `[${from}, ${to})  ${share} % of u`);
    };
    const learned = drawn.learned.length ? [line("learned", runAt(drawn.learned, step))] : [];
    this.showTip([line("exact", runAt(drawn.exact, step)), ...learned], x, y);
  }

  // Shows the tooltip below a point of the page, inside the box.
  showTip(lines, x, y) {
    const { tip } = this.parts;
    tip.replaceChildren(...lines);
    tip.hidden = false;
    const frame = this.box.getBoundingClientRect();
    const left = Math.min(x - frame.left - tip.offsetWidth / 2, frame.width - tip.offsetWidth);
    Object.assign(tip.style, { left: `${Math.max(0, left)}px`, top: `${y - frame.top}px` });
  }

  hideTip() {
    this.parts.tip.hidden = true;
  }
}

export function tipLine(name, label, hue, rest) {
  const line = node("div", `kfs-tipline kfs-tip-${name}`);
  const token = node("b", `kfs-chip ${name === "exact" ? "kfs-teacher" : "kfs-student"}`, label);
  token.dataset.hue = hue;
  line.append(node("span", "kfs-tipname", name), token, node("span", "kfs-number", rest));
  return line;
}

function showChip(chip, id, label) {
  const key = id === null ? "" : String(id);
  if (chip.dataset.id === key && chip.textContent === label) return;
  chip.dataset.id = key;
  chip.textContent = chip.title = label;
  if (id === null) delete chip.dataset.hue;
  else chip.dataset.hue = hueOf(id);
}

function shownNumber(value, format) {
  return typeof value === "number" && Number.isFinite(value) ? format(value) : "–";
}

// Four significant digits, but never 1.
export function noiseText(u) {
  const short = Number(u.toPrecision(4));
  return String(short < 1 ? short : u);
}

// In whole percent, but never 100 if anything differs.
export function percentOf(share) {
  const whole = Math.round(share * 100);
  return whole === 100 && share < 1 ? "> 99 %" : `${whole} %`;
}

function shareText({ learned, stretches, resolution }) {
  if (!learned.length) return "";
  const same = stretches.reduce((sum, { from, to, same }) => sum + (same ? to - from : 0), 0);
  return `agree on ${percentOf(same / resolution)} of this track`;
}

// The origin of the tracks; times are known only for those with which the context was opened.
export function originText({ pair, device, dtype, resolution, seconds, stored, sweeps }, tracks) {
  const [{ temperature }] = tracks.map(({ sweep }) => sweep);
  const every = Math.max(...tracks.map(({ sweep }) => sweep.every));
  const isFirst = tracks.every(({ sweep }) => sweeps.includes(sweep));
  const heat = temperature === 1 ? "" : `, temperature ${temperature}`;
  const took = isFirst && Number.isFinite(seconds) ? `, computed in ${seconds.toFixed(2)} s` : "";
  const steps = `1/${resolution / every}`;
  const coarse = every > 1 ? ` The server is busy: some tracks are in steps of ${steps} until there is time.` : "";
  return `Model pair ${pair} on ${device}, ${dtype}${heat}; ${resolution} steps per track${took}` +
    `${isFirst && stored ? ", stored with the page" : ""}.${coarse}`;
}

function showMessage(host, message) {
  const { failed, valid, run, is_command: isCommand, shown, asked } = message || {};
  host.replaceChildren();
  const say = (text) => host.append(node("span", "", sentence(text)));
  if (failed) host.append(node("strong", "", sentence(failed)));
  if (valid) say(` Valid: ${valid}`);
  if (run && isCommand) host.append(node("span", "", " Run: "), node("code", "", run));
  else if (run) say(` Try: ${run}`);
  const by = asked === shown?.pair ? "" : ` by ${shown?.pair}`;
  if (shown) say(` Still shown: ${quoted(lastLetters(shown.prompt))}${by}.`);
}

function sentence(text) {
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}

// Single quotation marks around a text that has double ones.
export function quoted(text) {
  return /["“”]/.test(text) ? `‘${text}’` : `“${text}”`;
}

function lastLetters(text) {
  const letters = Array.from(text);
  return letters.length > LETTERS_SHOWN ? `…${letters.slice(-LETTERS_SHOWN).join("")}` : text;
}
