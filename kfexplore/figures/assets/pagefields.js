// Functions for Gradio's events on the fields of the page; the widget is window.kfScrub (gradio.js).

const SAID = 4000; // milliseconds that "Link copied" stays

// Asks for another prompt or pair, also while one is on its way. Returns the pair that is shown, for the dropdown, also
// where the one that was asked for failed.
export async function choose(pair, prompt) {
  const shown = window.kfScrub.state();
  if (shown.loading || pair !== shown.pair || prompt !== shown.prompt) await window.kfScrub.visit({ pair, prompt });
  return window.kfScrub.state().pair;
}

// The same, and clears an earlier error. Not for the dropdown, which fires again when it loses the focus.
export function open(pair, prompt) {
  window.kfScrub.forget();
  return choose(pair, prompt);
}

// Scrub shows the prompt that a tab has put into the field, without a step of the browser's way back. A link that is on
// its way comes first.
export function taken(pair, prompt) {
  const shown = window.kfScrub.state();
  if (!shown.loading && prompt !== shown.prompt) window.kfScrub.open({ pair, prompt });
}

export function shown() {
  const { pair, prompt } = window.kfScrub.state();
  return [pair, prompt];
}

// Opens the tab to which the browser's way back leads; before the fields are as they were there, it would begin a run.
export function backToTab() {
  const backTo = CSS.escape(window.kfScrub.backTo);
  const inner = document.querySelector(`.tabitem [role="tab"][data-tab-id="${backTo}"]`);
  const outer = document.querySelector(`[role="tab"][data-tab-id="${inner ? "joint" : backTo}"]`);
  for (const tab of [outer, inner]) if (tab?.ariaSelected === "false") tab.click();
  window.kfScrub.backTo = null;
}

// Hands the address's query to the server, which checks it.
export function queried(query, ...fields) {
  return [location.search, ...fields];
}

// Once the fields say what a link does: where it was refused before, they go back to what is shown. Where it is refused
// later, the widget sees to it.
export function linked(pair, prompt) {
  window.kfRead = true;
  window.dispatchEvent(new Event("kf-read"));
  return window.kfScrub?.refused ? shown() : [pair, prompt];
}

// The address follows the fields of the tabs once its link was read. usual: [[key, value that the page opens with]].
export function follow(usual, ...values) {
  const textOf = (value) => String(value ?? "");
  const entry = ([key, first], at) => [key, textOf(values[at]) === textOf(first) ? null : textOf(values[at])];
  if (window.kfRead) window.kfScrub?.follow(Object.fromEntries(usual.map(entry)));
}

// Copies a link, and says so beside the button.
export async function copyLink(pair, prompt) {
  const place = document.querySelector("#head [role=status]");
  place.textContent = await window.kfScrub.copyLink({ pair, prompt });
  if (place.textContent === "Link copied") setTimeout(() => (place.textContent = ""), SAID);
}
