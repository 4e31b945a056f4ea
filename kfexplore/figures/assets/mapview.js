// The two-slot map: choice of slots, two planes with a crosshair, tooltip, pointer and keys.
// hooks: text(id), u(), resolution(), colours(), pick(slots, u_i, u_j, event), wanted() when a grid is due.

class ScrubMap {
  constructor(parts, hooks) {
    this.parts = parts;
    this.hooks = hooks;
    this.host = parts.map;
    this.body = this.host.querySelector(".kfs-mapbody");
    this.across = this.host.querySelector(".kfs-across");
    this.up = this.host.querySelector(".kfs-up");
    this.differ = this.host.querySelector(".kfs-differ");
    this.share = this.host.querySelector(".kfs-mapshare");
    this.meaning = this.host.querySelector(".kfs-meaning");
    this.planes = [...this.host.querySelectorAll(".kfs-plane")];
    this.slots = [0, 1];
    this.grid = null;
    this.visible = false;
    this.across.onchange = () => this.choose(Number(this.across.value), this.slots[1]);
    this.up.onchange = () => this.choose(this.slots[0], Number(this.up.value));
    this.differ.onchange = () => this.paint();
    this.planes.forEach((plane) => this.listen(plane));
  }

  watch() {
    this.observer = new IntersectionObserver((entries) => {
      this.visible = entries[entries.length - 1].isIntersecting;
      if (this.visible) this.hooks.wanted();
    });
    this.observer.observe(this.host);
  }

  listen(plane) {
    plane.onpointermove = (event) => {
      if (event.buttons === 1 && event.pointerType === "mouse") this.pickAt(plane, event);
      else this.tell(plane, event);
    };
    plane.onpointerleave = () => hideTip(this.parts);
    plane.onclick = (event) => this.pickAt(plane, event);
    plane.onkeydown = (event) => this.key(event);
  }

  offer(k, asks) {
    const shown = k > 1 && Boolean(asks || this.grid);
    const fresh = shown && this.body.hidden;
    this.body.hidden = !shown;
    this.parts.alone.hidden = shown;
    const why = k > 1 ? "This page holds no map of two slots." : "A map needs two slots: choose K of 2 or more.";
    setText(this.parts.alone, why);
    if (!shown) return false;
    this.showSlots(k);
    if (fresh) this.paint();
    return true;
  }

  // Two selects that can only name an earlier and a later slot.
  showSlots(k) {
    if (this.slots[1] >= k) this.slots = [0, Math.min(1, k - 1)];
    fillSelect(this.across, 0, k - 1, this.slots[0]);
    fillSelect(this.up, this.slots[0] + 1, k, this.slots[1]);
    if (this.grid && this.grid.slots[1] >= k) this.setGrid(null);
    else this.showWords();
  }

  // The slots that the squares are of: an older pair's, which stay until those of the chosen one are there.
  get drawn() {
    return this.grid ? this.grid.slots : this.slots;
  }

  // Whether other slots are chosen than are drawn.
  get waits() {
    return !this.grid || this.slots.some((slot, at) => slot !== this.drawn[at]);
  }

  showWords() {
    const [i, j] = this.drawn;
    setText(this.meaning, meaningOfArea(this.drawn));
    for (const name of this.host.querySelectorAll(".kfs-xname")) name.textContent = `noise of slot ${i + 1} →`;
    for (const name of this.host.querySelectorAll(".kfs-yname")) name.textContent = `noise of slot ${j + 1} →`;
    for (const plane of this.planes) {
      const map = plane.dataset.map === "teacher" ? "Exact" : "Learned";
      plane.setAttribute("aria-label", `${map} map of slots ${i + 1} and ${j + 1}; arrow keys move both sliders`);
    }
  }

  choose(i, j) {
    this.slots = [i, Math.max(j, i + 1)];
    hideTip(this.parts);
    this.hooks.wanted();
    this.showShare();
  }

  // After a failure: back to the slots that are drawn.
  giveUp(k) {
    this.slots = this.drawn.slice();
    this.showSlots(k);
    this.showShare();
  }

  setGrid(grid) {
    this.grid = grid;
    if (!grid) for (const plane of this.planes) fitCanvas(plane.querySelector("canvas"));
    this.paint();
    this.showWords();
    this.showShare();
  }

  matches(pair, prompt, { u, temperature }) {
    const grid = this.grid;
    if (!grid || grid.pair !== pair || grid.prompt !== prompt || grid.temperature !== temperature) return false;
    const [i, j] = this.slots;
    if (grid.slots[0] !== i || grid.slots[1] !== j) return false;
    for (let slot = 0; slot < j; slot++) if (slot !== i && grid.u[slot] !== u[slot]) return false;
    return true;
  }

  markStale(stale, waiting) {
    this.body.classList.toggle("kfs-stale", stale);
    this.body.setAttribute("aria-busy", String(stale && waiting));
  }

  showShare() {
    if (this.waits) return setText(this.share, "computing…");
    const [i, j] = this.drawn;
    const percent = Math.round(this.grid.agreement * 100);
    const share = `both tokens (slots ${i + 1} and ${j + 1}) agree on ${percent} % of the square`;
    setText(this.share, this.grid.student ? share : "");
    for (const plane of this.planes) plane.setAttribute("aria-description", this.share.textContent);
  }

  paint() {
    if (!this.grid || this.host.hidden) return;
    for (const plane of this.planes) {
      const show = { model: plane.dataset.map, differ: this.differ.checked && Boolean(this.grid.student) };
      paintMap(plane.querySelector("canvas"), this.grid, show, this.hooks.colours(), (id) => this.label(id));
    }
    this.cross();
  }

  label(id) {
    return labelOf(this.grid.texts[id] ?? this.hooks.text(id));
  }

  cross() {
    const u = this.hooks.u();
    for (const plane of this.planes) {
      plane.style.setProperty("--u", u[this.drawn[0]]);
      plane.style.setProperty("--v", u[this.drawn[1]]);
    }
  }

  place(plane, event) {
    const frame = plane.getBoundingClientRect();
    const inside = (share) => Math.min(1 - 1e-9, Math.max(0, share));
    return [
      inside((event.clientX - frame.left) / frame.width),
      inside((frame.bottom - event.clientY) / frame.height),
    ];
  }

  pickAt(plane, event) {
    if (this.waits) return;
    const [x, y] = this.place(plane, event);
    this.hooks.pick(this.drawn, x, y, event);
  }

  key(event) {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] || [];
    if (x === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const size = (event.shiftKey ? 16 : 1) / this.hooks.resolution();
    const u = this.hooks.u();
    const inside = (value) => Math.min(1 - 1e-9, Math.max(0, value));
    const [i, j] = this.drawn;
    this.hooks.pick([i, j], inside(u[i] + x * size), inside(u[j] + y * size), event);
  }

  tell(plane, event) {
    if (!this.grid || event.pointerType === "touch") return;
    const [x, y] = this.place(plane, event);
    const { resolution } = this.grid;
    const pair = (model) => gridPair(this.grid, model, stepOf(x, resolution), stepOf(y, resolution));
    const both = ([first, second]) => `${this.label(first)}${this.label(second)}`;
    const line = (name, tokens) => tipLine(name, both(tokens), hueOf(tokens[1]), "");
    const at = part("div", "kfs-tipline kfs-number", `u = ${x.toFixed(3)}, ${y.toFixed(3)}`);
    const learned = this.grid.student ? [line("learned", pair("student"))] : [];
    const lines = [line("exact", pair("teacher")), ...learned, at];
    showTip(this.parts, lines, event.clientX, event.clientY + 18);
  }

  stop() {
    if (this.observer) this.observer.disconnect();
  }
}

// What an area of the exact square is the probability of; by causality only slots before the later one matter.
function meaningOfArea([i, j]) {
  if (j > i + 1) {
    const held = j === i + 2 ? `slot ${j}` : `slots ${i + 2} ${j === i + 3 ? "and" : "to"} ${j}`;
    return `The noise of ${held} is held between them, so an area is no probability of a pair: it is a section.`;
  }
  const given = i ? `, given the exact ${i === 1 ? "token" : "tokens"} before them` : "";
  return `The area of a region in the exact square is the probability of its pair${given}.`;
}

// Left alone while its choices are the same: a list that is rebuilt closes under the reader's hand.
function fillSelect(select, from, to, chosen) {
  const choices = `${from} ${to}`;
  if (select.dataset.choices === choices) {
    select.value = String(chosen);
    return;
  }
  select.dataset.choices = choices;
  select.textContent = "";
  for (let slot = from; slot < to; slot++) {
    const option = part("option", "", `slot ${slot + 1}`);
    option.value = slot;
    select.append(option);
  }
  select.value = String(chosen);
}
