// Handlers for Gradio's events on the fields of the page; the widget is window.kfScrub (gradio.js).

const SAID = 4000; // milliseconds that "Link copied" stays

// Requests another prompt or pair, also while one is loading. Returns the pair that is shown then, for the dropdown,
// also if the requested one failed.
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

// Shows in Scrub the prompt that a tab has put into the field, without a new entry in the browser's history. A link
// that is loading takes precedence.
export function taken(pair, prompt) {
  const shown = window.kfScrub.state();
  if (!shown.loading && prompt !== shown.prompt) window.kfScrub.open({ pair, prompt });
}

export function shown() {
  const { pair, prompt } = window.kfScrub.state();
  return [pair, prompt];
}

// Opens the tab of the browser's Back, after the fields are restored: earlier, it would start a run with other values.
export function backToTab() {
  const backTo = CSS.escape(window.kfScrub.backTo);
  const inner = document.querySelector(`.tabitem [role="tab"][data-tab-id="${backTo}"]`);
  const outer = document.querySelector(`[role="tab"][data-tab-id="${inner ? "joint" : backTo}"]`);
  for (const tab of [outer, inner]) if (tab?.ariaSelected === "false") tab.click();
  window.kfScrub.backTo = null;
}

// Passes the address's query to the server, which checks it.
export function queried(query, ...fields) {
  return [location.search, ...fields];
}

// Called when the fields match a link. If the link was rejected before, they return to what is shown; if it is rejected
// later, the widget restores them.
export function linked(pair, prompt) {
  window.kfRead = true;
  window.dispatchEvent(new Event("kf-read"));
  return window.kfScrub?.refused ? shown() : [pair, prompt];
}

// Updates the address from the fields of the tabs, once its link is read. usual: [[key, initial value]].
export function follow(usual, ...values) {
  const textOf = (value) => String(value ?? "");
  const entry = ([key, first], at) => [key, textOf(values[at]) === textOf(first) ? null : textOf(values[at])];
  if (window.kfRead) window.kfScrub?.follow(Object.fromEntries(usual.map(entry)));
}

// Copies a link, and shows a message beside the button.
export async function copyLink(pair, prompt) {
  const place = document.querySelector("#head [role=status]");
  place.textContent = await window.kfScrub.copyLink({ pair, prompt });
  if (place.textContent === "Link copied") setTimeout(() => (place.textContent = ""), SAID);
}
