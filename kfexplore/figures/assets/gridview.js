// Draws the grid of two slots: choice of slots, two planes with a crosshair, tooltip; pointer and keyboard.

import { gridPair, stepOf } from "./codec.js";
import { fitCanvas, paintGrid } from "./paint.js";
import { savePicture } from "./save.js";
import { LARGE_STEP, SMALL_STEP } from "./state.js";
import { coloursOf, hueOf, labelOf } from "./tokens.js";
import { node, partsOf, percentOf, setText, tipLine } from "./view.js";

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const GRID_PARTS = ["map", "mapbody", "across", "up", "differ", "mapshare", "meaning", "maps", "alone", "newplane",
  "savegrid"];

export class GridView {
  // change(what) is called when the reader changes the grid, pick(slots, x, y) when a point is chosen.
  constructor(view, change, pick) {
    this.view = view;
    this.change = change;
    this.pick = pick;
    this.parts = partsOf(view.box, GRID_PARTS);
    const { across, up, differ } = this.parts;
    this.planes = ["teacher", "student"].map((model) => this.buildPlane(model));
    const choose = (i, j) => (view.hideTip(), change({ slots: [i, Math.max(j, i + 1)] }));
    across.onchange = () => choose(Number(across.value), this.grid.slots[1]);
    up.onchange = () => choose(this.grid.slots[0], Number(up.value));
    this.parts.savegrid.onclick = () => this.data && this.save();
    differ.onchange = () => change({ marksDifferences: differ.checked });
  }

  buildPlane(model) {
    const figure = this.parts.newplane.content.firstElementChild.cloneNode(true);
    const name = model === "teacher" ? "Exact" : "Learned";
    const plane = figure.querySelector(".kfs-plane");
    if (model === "student") figure.className = "kfs-learned";
    figure.querySelector("figcaption").textContent = name;
    plane.dataset.map = model;
    plane.onpointermove = (event) => {
      if (event.buttons === 1 && event.pointerType === "mouse") this.pickAt(plane, event);
      else this.showTip(plane, event);
    };
    plane.onpointerleave = () => this.view.hideTip();
    plane.onclick = (event) => this.pickAt(plane, event);
    plane.onkeydown = (event) => this.onKey(event);
    this.parts.maps.append(figure);
    return { name, model, plane, canvas: figure.querySelector("canvas") };
  }

  watch() {
    this.observer = new IntersectionObserver((entries) => {
      this.change({ isVisible: entries[entries.length - 1].isIntersecting });
    });
    this.observer.observe(this.parts.map);
  }

  stop() {
    if (this.observer) this.observer.disconnect();
  }

  render(before, state) {
    if (!state.context) return;
    const { k, grid, u, hasServer } = state;
    const { parts } = this;
    const { data } = grid;
    const isShown = k > 1 && (hasServer || Boolean(data));
    const isNew = before.grid !== grid || before.k !== k || before.context !== state.context;
    Object.assign(this, { grid, u, texts: state.texts, resolution: state.context.resolution });
    for (const { plane } of this.planes) {
      plane.style.setProperty("--u", u[grid.slots[0]]);
      plane.style.setProperty("--v", u[grid.slots[1]]);
    }
    if (!isNew) return;
    parts.mapbody.hidden = !isShown;
    parts.alone.hidden = isShown;
    const why = k > 1 ? "This page holds no grid of two slots." : "A grid needs two slots: choose K of 2 or more.";
    setText(parts.alone, why);
    parts.mapbody.ariaBusy = isShown && grid.isVisible && grid.status === "pending";
    if (!isShown) return;
    fillSelect(parts.across, 0, k - 1, grid.slots[0]);
    fillSelect(parts.up, grid.slots[0] + 1, k, grid.slots[1]);
    parts.mapbody.classList.toggle("kfs-stale", Boolean(data) && grid.status !== "known");
    this.showWords();
    const isSame = ["data", "slots", "marksDifferences"].every((name) => before.grid[name] === grid[name]);
    if (!isSame || before.k !== k) this.paint();
  }

  // The grid of the chosen slots, or null until it arrives: a grid of other slots would have the wrong labels.
  get data() {
    const { data, slots } = this.grid;
    return data && slots.every((slot, at) => slot === data.slots[at]) ? data : null;
  }

  showWords() {
    const { data, grid: { slots } } = this;
    const [i, j] = slots;
    setText(this.parts.meaning, meaningOfArea(slots));
    const percent = percentOf(data?.agreement ?? 0);
    const share = data?.student ? `both tokens (slots ${i + 1} and ${j + 1}) agree on ${percent} of the grid` : "";
    setText(this.parts.mapshare, data ? share : "computing…");
    for (const [name, slot] of [["x", i], ["y", j]]) {
      const axes = this.parts.maps.querySelectorAll(`.kfs-${name}name`);
      for (const axis of axes) setText(axis, `noise of slot ${slot + 1} →`);
    }
    for (const { name, plane } of this.planes) {
      plane.ariaLabel = `${name} grid of slots ${i + 1} and ${j + 1}; arrow keys move both sliders`;
      if (data) plane.ariaDescription = share;
    }
  }

  repaint(theme) {
    this.colours = coloursOf(theme);
    if (this.grid) this.paint();
  }

  paint() {
    const { data, grid: { marksDifferences } } = this;
    for (const { model, canvas } of this.planes) {
      if (!data) fitCanvas(canvas);
      else if (this.colours && data[model]) {
        const marks = marksDifferences && Boolean(data.student);
        paintGrid(canvas, data, model, marks, this.colours, (id) => this.label(id));
      }
    }
  }

  save() {
    const [i, j] = this.grid.slots;
    const line = `Noise of slot ${i + 1} across, of slot ${j + 1} up: ${this.parts.mapshare.textContent}`;
    const shown = this.planes.filter(({ model }) => this.data[model]);
    const panels = shown.map(({ name, canvas }) => ({ label: name, canvas }));
    savePicture("kfexplore-grid.png", [line], panels, true, this.colours);
  }

  label(id) {
    return labelOf(this.data.texts[id] ?? this.texts[id]);
  }

  placeOf(plane, event) {
    const frame = plane.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width, (frame.bottom - event.clientY) / frame.height].map(inside);
  }

  pickAt(plane, event) {
    if (this.data) this.pick(this.grid.slots, ...this.placeOf(plane, event));
  }

  onKey(event) {
    if (!(event.key in ARROWS) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const size = (event.shiftKey ? LARGE_STEP : SMALL_STEP) / this.resolution;
    const { slots } = this.grid;
    this.pick(slots, ...slots.map((slot, at) => inside(this.u[slot] + ARROWS[event.key][at] * size)));
  }

  showTip(plane, event) {
    const { data } = this;
    if (!data || event.pointerType === "touch") return;
    const [x, y] = this.placeOf(plane, event);
    const line = (name, model) => {
      const [first, second] = gridPair(data, model, stepOf(x, data.resolution), stepOf(y, data.resolution));
      return tipLine(name, `${this.label(first)}${this.label(second)}`, hueOf(second), "");
    };
    const learned = data.student ? [line("learned", "student")] : [];
    const at = node("div", "kfs-tipline kfs-number", `u = ${x.toFixed(3)}, ${y.toFixed(3)}`);
    this.view.showTip([line("exact", "teacher"), ...learned, at], event.clientX, event.clientY + 18);
  }
}

function inside(share) {
  return Math.min(1 - 1e-9, Math.max(0, share));
}

// What the area in an exact grid is the probability of; by causality it depends only on slots before the later one.
export function meaningOfArea([i, j]) {
  if (j > i + 1) {
    const fixed = j === i + 2 ? `slot ${j}` : `slots ${i + 2} ${j === i + 3 ? "and" : "to"} ${j}`;
    return `The noise of ${fixed} is fixed between them, so an area is not the probability of a pair.`;
  }
  const given = i ? `, given the exact ${i === 1 ? "token" : "tokens"} before them` : "";
  return `The area of a region in the exact grid is the probability of its pair${given}.`;
}

// Does nothing while the choices stay the same: a rebuilt list would close while the reader chooses.
function fillSelect(select, from, to, chosen) {
  const choices = `${from} ${to}`;
  if (select.dataset.choices !== choices) {
    select.dataset.choices = choices;
    const slots = Array.from({ length: to - from }, (_, at) => from + at);
    select.replaceChildren(...slots.map((slot) => new Option(`slot ${slot + 1}`, slot)));
  }
  select.value = chosen;
}
