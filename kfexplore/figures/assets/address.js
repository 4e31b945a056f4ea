// Links: what is shown, in the query of the page's address.

const LONGEST_ADDRESS = 6000; // servers on the way refuse longer ones, and this one far longer ones
const PAUSE = 400; // milliseconds; browsers refuse an address that changes more than some three times a second
const FIRST_TAB = "scrub";

// u goes in at full precision: a link must open on the very same tokens. null: not in the address.
function queryOf({ context, k, u, temperature }) {
  const { pair, prompt } = context;
  return { pair, prompt, k, u: u.slice(0, k).join(","), temperature: temperature === 1 ? null : temperature };
}

function put(query, values) {
  for (const [name, value] of Object.entries(values)) {
    if (value === null) query.delete(name);
    else query.set(name, value);
  }
}

// The innermost tab that is open.
function tabShown() {
  const open = [...document.querySelectorAll("[data-tab-id][aria-selected=true]")].filter((tab) => tab.offsetParent);
  const id = open.length ? open[open.length - 1].dataset.tabId : FIRST_TAB;
  return { tab: id === FIRST_TAB ? null : id };
}

// Copies without a clipboard permission, too (plain http pages have no navigator.clipboard).
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text, className: "kfs-sr" });
    document.body.append(area);
    area.select();
    const isDone = document.execCommand("copy");
    area.remove();
    return isDone;
  }
}

// The page's own address follows what is shown: a reload, of the reader's or after a broken connection, loses nothing.
export class Address {
  // read() returns the state.
  constructor(read) {
    this.read = read;
    this.fields = null; // of the page, by their keys; null until it has read its link
  }

  follow() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.write(), PAUSE);
  }

  // On the browser's way back, the address that was about to be written is no longer that of what is shown.
  hold() {
    clearTimeout(this.timer);
  }

  write() {
    clearTimeout(this.timer);
    const { context, isLoading } = this.read();
    // While another context is on its way, the address may be its own already.
    if (!context || isLoading || !location.protocol.startsWith("http")) return;
    const query = new URLSearchParams(location.search);
    const shown = queryOf(this.read());
    put(query, shown);
    if (this.fields) put(query, { ...this.fields, ...tabShown() });
    if (String(query).length > LONGEST_ADDRESS) for (const name of Object.keys(shown)) query.delete(name);
    history.replaceState(history.state, "", `?${query}`);
  }

  // Copies a link to what is shown, with a pair and a prompt that are about to be. Returns what to tell the reader.
  async copy(named) {
    const query = new URLSearchParams();
    put(query, { ...queryOf(this.read()), ...named, ...this.fields, ...tabShown() });
    const link = `${location.origin}${location.pathname}?${query}`;
    if (link.length > LONGEST_ADDRESS) return "The prompt is too long for a link.";
    return (await copyText(link)) ? "Link copied" : `Copy this link: ${link}`;
  }
}
