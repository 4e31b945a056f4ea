// Functions for Gradio's events on the fields above the tabs; the widget is window.kfScrub (gradio.js).

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

export function shown() {
  const { pair, prompt } = window.kfScrub.state();
  return [pair, prompt];
}

// Once the fields say what a link does: where it was refused before, they go back to what is shown. Where it is refused
// later, the widget sees to it.
export function linked(pair, prompt) {
  return window.kfScrub?.refused ? shown() : [pair, prompt];
}
