// Listeners, the page's address, theme, and the one function that a page calls.

function listenControls(scrub) {
  const { parts } = scrub;
  parts.dice.onclick = () => scrub.tables && rollDice(scrub);
  parts.reset.onclick = () => scrub.tables && resetNoise(scrub);
  parts.heat.oninput = (event) => scrub.tables && heatTo(scrub, Number(parts.heat.value), event);
  parts.heat.onchange = () => scrub.settle();
  parts.link.onclick = () => scrub.tables && copyLink(scrub);
}

function listenRow(scrub, row, slot) {
  const { range, field, lock } = row;
  range.oninput = (event) => slideTo(scrub, slot, Number(range.value), event);
  range.onchange = () => scrub.settle();
  range.onpointerup = () => scrub.settle();
  range.onkeydown = (event) => stepByKey(scrub, slot, event);
  range.onkeyup = () => scrub.settle();
  range.onpointermove = (event) => tellTrack(scrub, row, event);
  range.onpointerenter = (event) => event.buttons || scrub.rows.touch(slot);
  range.onfocus = () => scrub.rows.touch(slot);
  range.onpointerdown = () => {
    scrub.rows.touch(slot);
    hideTip(scrub.parts);
  };
  range.onpointerleave = () => hideTip(scrub.parts);
  field.onchange = () => typeNumber(scrub, slot, field);
  field.onfocus = () => field.select();
  lock.onclick = () => {
    scrub.locked[slot] = !scrub.locked[slot];
    lock.setAttribute("aria-pressed", String(scrub.locked[slot]));
    lock.textContent = scrub.locked[slot] ? "Locked" : "Lock";
    lock.setAttribute("aria-label", `${lock.textContent} slot ${slot + 1}`);
  };
}

// Only while nothing is held down: a tooltip under a dragging hand hides what it moves.
function tellTrack(scrub, row, event) {
  if (event.buttons || event.pointerType === "touch" || !row.track) {
    hideTip(scrub.parts);
    return;
  }
  const frame = row.canvas.getBoundingClientRect();
  const step = stepOf((event.clientX - frame.left) / frame.width, row.track.resolution);
  showTip(scrub.parts, trackTip(row.track, step, (id) => scrub.text(id)), event.clientX, frame.bottom + 10);
}

// Longer ones are refused by servers on the way, and far longer ones by this one.
const LONGEST_ADDRESS = 6000;

async function copyLink(scrub) {
  const { said } = scrub.parts;
  const link = linkOf(scrub);
  if (link.length > LONGEST_ADDRESS) {
    said.textContent = "The prompt is too long for a link.";
    return;
  }
  const done = await copyText(link);
  said.textContent = done ? "Link copied" : `Copy this link: ${link}`;
  clearTimeout(scrub.saidTimer);
  if (done) scrub.saidTimer = setTimeout(() => (said.textContent = ""), 4000);
}

// u goes in at full precision: a link must open on the very same tokens.
function queryOf({ tables, k, u, temperature }) {
  const query = { pair: tables.pair, prompt: tables.prompt, k, u: u.slice(0, k).join(",") };
  return temperature === 1 ? query : { ...query, temperature };
}

function linkOf(scrub) {
  return `${location.origin}${location.pathname}?${new URLSearchParams(queryOf(scrub))}`;
}

// The page's own address follows what is shown: a reload, of the reader's or after a broken connection, loses nothing.
// Not at every key: browsers refuse an address that changes more than some three times a second.
function keepAddress(scrub, pause = 400) {
  if (!location.protocol.startsWith("http")) return;
  clearTimeout(scrub.addressTimer);
  const keep = () => {
    const query = new URLSearchParams(location.search);
    query.delete("temperature");
    const shown = Object.entries(queryOf(scrub));
    for (const [name, value] of shown) query.set(name, value);
    if (String(query).length > LONGEST_ADDRESS) for (const [name] of shown) query.delete(name);
    history.replaceState(history.state, "", `?${query}`);
  };
  if (pause) scrub.addressTimer = setTimeout(keep, pause);
  else keep();
}

// Gradio marks a dark page with a class on the body; a page on its own follows the reader's system.
function isDark(box) {
  if (box.closest('[data-theme-from="system"]')) return window.matchMedia("(prefers-color-scheme: dark)").matches;
  return document.body.classList.contains("dark");
}

// Repaints on a change of theme or width. A page part that has been taken out stops listening.
function followPage(scrub) {
  const { box } = scrub.parts;
  const showTheme = () => {
    if (!box.isConnected) return stop();
    const theme = isDark(box) ? "dark" : "light";
    if (box.dataset.theme === theme) return undefined;
    box.dataset.theme = theme;
    return scrub.repaint();
  };
  let width = 0;
  const sizes = new ResizeObserver(() => {
    if (box.clientWidth === width) return;
    width = box.clientWidth;
    scrub.repaint();
  });
  const classes = new MutationObserver(showTheme);
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const stop = () => {
    sizes.disconnect();
    classes.disconnect();
    system.removeEventListener("change", showTheme);
    scrub.map.stop();
  };
  classes.observe(document.body, { attributes: true, attributeFilter: ["class"] });
  system.addEventListener("change", showTheme);
  sizes.observe(box);
  showTheme();
}

async function visitTo(scrub, change) {
  keepAddress(scrub, 0);
  const done = await scrub.load(change);
  if (done) history.pushState(history.state, "");
  if (done) keepAddress(scrub, 0);
  return done;
}

function mountScrub(root, first, transport) {
  const scrub = new Scrub(root, first, transport || null);
  let visit = {};
  return {
    open: (change) => scrub.load(change),
    // As open, and the browser's way back leads to what was shown before. One request where the same visit is asked for
    // again while it is on its way: a dropdown reports one choice twice.
    visit: (change) => {
      const key = JSON.stringify(change);
      if (!scrub.loading || visit.key !== key || visit.load !== scrub.loads) {
        const done = visitTo(scrub, change);
        visit = { key, done, load: scrub.loads };
      }
      return visit.done;
    },
    forget: () => scrub.clearMessage(),
    state: () => ({
      pair: scrub.tables && scrub.tables.pair,
      prompt: scrub.tables && scrub.tables.prompt,
      k: scrub.k,
      temperature: scrub.temperature,
      u: scrub.u.slice(0, scrub.k),
      locked: scrub.locked.slice(0, scrub.k),
      source: root.dataset.source,
      seq: scrub.seq,
      loading: scrub.loading,
      settled: scrub.rows.settled,
      teacher: scrub.drawn && scrub.drawn.answer.teacher.slice(0, scrub.k),
      student: scrub.drawn && scrub.drawn.answer.student && scrub.drawn.answer.student.slice(0, scrub.k),
    }),
  };
}
