// The widget in the app's page: opens links, and follows the fields above the tabs (pair and prompt).

import { mountScrub } from "./scrub.js";

// For gr.HTML's js_on_load. The event `submit` fills in the fields from what is shown.
export function mountInPage(element, props, server, trigger) {
  const page = mountScrub(element, JSON.parse(props.first), server);
  const follow = async () => {
    page.refused = false;
    page.refused = (await openLink()) === false;
    if (page.refused) trigger("submit");
  };
  window.kfScrub = Object.assign(page, { openLink: follow });
  follow();
  window.addEventListener("popstate", () => {
    page.backTo = new URLSearchParams(location.search).get("tab") ?? "scrub";
    openLink().then(() => trigger("submit"));
  });
}

// Opens what a copied link or the browser's Back asks for. The server reports values that are not numbers.
async function openLink() {
  const link = new URLSearchParams(window.location.search);
  if (!["pair", "prompt", "k", "u", "temperature"].some((name) => link.has(name))) return undefined;
  const number = (text) => (text.trim() && Number.isFinite(Number(text)) ? Number(text) : text);
  return window.kfScrub.open({
    pair: link.get("pair") ?? undefined,
    prompt: link.get("prompt") ?? undefined,
    k: link.has("k") ? number(link.get("k")) : undefined,
    u: link.has("u") ? link.get("u").split(",").map(number) : undefined,
    temperature: link.has("temperature") ? number(link.get("temperature")) : 1,
  });
}
