// The widget: turns the reader's actions into changes of the state, and connects session, views and address.
//
// A move: a listener here -> state.js (the next state) -> session.js (holds the state, draws it) -> decisions.js
// (requests) -> the server -> session.js -> state.js (the next state, from the reply).

import { Address } from "./address.js";
import { stepOf } from "./codec.js";
import { GridView } from "./gridview.js";
import { Session } from "./session.js";
import { activated, diced, gridChanged, heated, linkedNoise, lockToggled, messageCleared, picked, playBegun,
  playEnded, playedTo, reset, shortened, slid, slidByKey, typed } from "./state.js";
import { View, noiseText } from "./view.js";

const PLAYED = 9000; // milliseconds from one end of a slider to the other
const STEPS_PLAYED = 9; // for readers who prefer reduced motion

class Scrub {
  constructor(root, first, transport) {
    this.address = new Address(() => this.state);
    this.view = new View(root, (row, slot) => this.listenRow(row, slot));
    const change = (what) => this.update(gridChanged(this.state, what));
    this.gridView = new GridView(this.view, change, (...point) => this.move(picked(this.state, ...point)));
    const render = (before, state) => [this.view, this.gridView].forEach((view) => view.render(before, state));
    this.session = new Session(transport, render, () => this.address.follow());
    this.listenControls();
    this.session.take(first);
    this.followPage();
    if (this.state.context) this.gridView.watch();
  }

  get state() {
    return this.session.state;
  }

  update(state) {
    this.session.update(state);
  }

  move(state, isAtRest) {
    this.session.move(state, isAtRest);
  }

  listenControls() {
    const { dice, play, reset: back, heat, savetracks } = this.view.parts;
    const when = (act) => () => this.state.context && act();
    dice.onclick = when(() => this.move(diced(this.state), true));
    play.onclick = when(() => this.play());
    back.onclick = when(() => this.move(reset(this.state), true));
    savetracks.onclick = when(() => this.view.saveTracks(this.state));
    heat.oninput = when(() => this.move(heated(this.state, Number(heat.value))));
    heat.onchange = () => this.session.settle();
    this.view.parts.ks.onchange = ({ target }) => this.chooseK(Number(target.value));
  }

  listenRow(row, slot) {
    const { range, u, lock } = row;
    const activate = () => this.update(activated(this.state, slot));
    const settle = () => this.session.settle();
    range.oninput = () => this.move(slid(this.state, slot, Number(range.value)));
    range.onkeydown = (event) => this.onKey(slot, event);
    Object.assign(range, { onchange: settle, onpointerup: settle, onkeyup: settle, onfocus: activate });
    range.onpointerenter = (event) => event.buttons || activate();
    range.onpointerdown = () => (activate(), this.view.hideTip());
    range.onpointermove = (event) => this.showTip(row, event);
    range.onpointerleave = () => this.view.hideTip();
    u.onfocus = () => u.select();
    u.onchange = () => this.onTyped(slot, u);
    lock.onclick = () => this.update(lockToggled(this.state, slot));
  }

  onKey(slot, event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const state = slidByKey(this.state, slot, event.key, event.shiftKey);
    if (!state) return;
    event.preventDefault();
    this.move(state);
  }

  // A second press stops the slider at its position, as any move does.
  play() {
    if (this.state.playing) return this.stopPlaying({ ...this.state, playing: null });
    this.update(playBegun(this.state));
    const { playing } = this.state;
    const isCalm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    const again = isCalm ? (tick) => setTimeout(tick, PLAYED / STEPS_PLAYED) : requestAnimationFrame;
    let [played, last] = [0, performance.now()];
    const tick = () => {
      if (this.state.playing !== playing || !this.view.box.isConnected) return undefined;
      if (played >= 1) return this.stopPlaying(playEnded(this.state));
      const moved = playedTo(this.state, played);
      if (!moved.playing) return this.stopPlaying(moved);
      const now = performance.now();
      if (moved !== this.state) {
        this.update(moved);
        played += isCalm ? 1 / STEPS_PLAYED : Math.min(now - last, 100) / PLAYED;
      }
      last = now;
      return again(tick);
    };
    return tick();
  }

  stopPlaying(state) {
    this.update(state);
    this.session.settle();
  }

  onTyped(slot, field) {
    const text = field.value.trim();
    const u = this.state.u[slot];
    this.move(typed(this.state, slot, text === noiseText(u) ? String(u) : text), true); // the shown text is rounded
    field.value = noiseText(this.state.u[slot]);
    if (this.state.message) field.scrollIntoView({ block: "nearest" }); // the message moves it down
  }

  // Only while no button is pressed: a tooltip under the pointer would hide what is dragged.
  showTip(row, event) {
    if (event.buttons || event.pointerType === "touch" || !row.drawn) return this.view.hideTip();
    const frame = row.canvas.getBoundingClientRect();
    const step = stepOf((event.clientX - frame.left) / frame.width, row.drawn.resolution);
    return this.view.showTrackTip(row, step, event.clientX, frame.bottom + 10);
  }

  async chooseK(k) {
    if (k <= this.state.context.k) this.move(shortened(this.state, k));
    else if (!(await this.load({ k, u: this.state.u.slice(0, k) }))) this.address.follow();
  }

  // Opens what a link asks for, without a request if the page has the answer.
  async open(change) {
    const state = linkedNoise(this.state, change);
    if (!state) return this.load(change);
    this.move(state, true);
    return true;
  }

  load(change) {
    this.address.hold();
    return this.session.load(change);
  }

  // As load, with a new entry in the browser's history. A repeated call while the same visit loads sends no request:
  // a dropdown reports each choice twice.
  visit(change) {
    const key = JSON.stringify(change);
    const { isLoading, loads } = this.state;
    if (!isLoading || this.visited?.key !== key || this.visited.loads !== loads) {
      this.address.write();
      const done = this.load(change).then((isTaken) => {
        if (isTaken) {
          history.pushState(history.state, "");
          this.address.write();
        }
        return isTaken;
      });
      this.visited = { key, done, loads: this.state.loads };
    }
    return this.visited.done;
  }

  // Repaints when the theme or width changes. A widget that is removed from the page stops listening.
  followPage() {
    const { box } = this.view;
    const repaint = () => [this.view, this.gridView].forEach((view) => view.repaint(box.dataset.theme));
    const system = window.matchMedia("(prefers-color-scheme: dark)");
    const followsSystem = box.closest('[data-theme-from="system"]');
    const showTheme = () => {
      if (!box.isConnected) return stop();
      // Gradio marks a dark page with a class on the body; a standalone page follows the reader's system.
      const theme = (followsSystem ? system.matches : document.body.classList.contains("dark")) ? "dark" : "light";
      if (box.dataset.theme === theme) return undefined;
      box.dataset.theme = theme;
      return repaint();
    };
    let width = 0;
    const sizes = new ResizeObserver(() => {
      if (box.clientWidth === width) return;
      width = box.clientWidth;
      repaint();
    });
    const classes = new MutationObserver(showTheme);
    const stop = () => {
      for (const observer of [sizes, classes]) observer.disconnect();
      system.removeEventListener("change", showTheme);
      this.gridView.stop();
    };
    classes.observe(document.body, { attributes: true, attributeFilter: ["class"] });
    system.addEventListener("change", showTheme);
    sizes.observe(box);
    showTheme();
  }
}

// Creates the widget; pages call only this. first: a `tables` reply; transport: see session.js, or null.
export function mountScrub(root, first, transport) {
  const scrub = new Scrub(root, first, transport || null);
  return {
    open: (change) => scrub.open(change),
    visit: (change) => scrub.visit(change),
    // Fields of the surrounding page: keys and values for the address, null for initial values.
    follow: (fields) => (Object.assign(scrub.address, { fields }), scrub.address.follow()),
    hold: () => scrub.address.hold(),
    copyLink: (named) => scrub.address.copy(named),
    forget: () => scrub.update(messageCleared(scrub.state)),
    state: () => {
      const { context, k, temperature, u, locked, point, seq, isLoading, isSettled } = scrub.state;
      const shown = (values) => values && values.slice(0, k);
      return { pair: context?.pair, prompt: context?.prompt, k, temperature, u: shown(u), locked: shown(locked), seq,
        loading: isLoading, settled: isSettled, source: root.dataset.source,
        teacher: shown(point.answer?.teacher), student: shown(point.answer?.student) };
    },
  };
}

// Sets the height of a document's frame to that of its content, and hides the still image that a notebook has below.
export function fitFrame() {
  const frame = window.frameElement;
  const still = frame?.closest(".jp-OutputArea-child, .output_area")?.nextElementSibling;
  if (still?.querySelector("img")) still.hidden = true;
  new ResizeObserver(() => {
    if (frame) frame.style.height = `${document.documentElement.offsetHeight + 4}px`;
  }).observe(document.body);
}
