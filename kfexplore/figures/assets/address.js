// Links: the query of the page's address encodes what is shown.

const LONGEST_ADDRESS = 6000; // characters; proxies reject longer ones, and this server far longer ones
const PAUSE = 400; // milliseconds; browsers limit changes of the address to about three per second
const FIRST_TAB = "scrub";

// u has full precision, since a link must open with the same tokens. null: not in the address.
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

// The innermost open tab.
function tabShown() {
  const open = [...document.querySelectorAll("[data-tab-id][aria-selected=true]")].filter((tab) => tab.offsetParent);
  const id = open.length ? open[open.length - 1].dataset.tabId : FIRST_TAB;
  return { tab: id === FIRST_TAB ? null : id };
}

// Also copies without clipboard permission (plain http pages have no navigator.clipboard).
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

// Keeps the page's address in step with what is shown, so that a reload loses nothing.
export class Address {
  // read() returns the state.
  constructor(read) {
    this.read = read;
    this.fields = null; // the page's fields by key; null until the page has read its link
  }

  follow() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.write(), PAUSE);
  }

  // Drops a pending write: after the browser's Back or Forward it no longer matches what is shown.
  hold() {
    clearTimeout(this.timer);
  }

  write() {
    clearTimeout(this.timer);
    const { context, isLoading } = this.read();
    // While another context is loading, the address may already be that of the new context.
    if (!context || isLoading || !location.protocol.startsWith("http")) return;
    const query = new URLSearchParams(location.search);
    const shown = queryOf(this.read());
    put(query, shown);
    if (this.fields) put(query, { ...this.fields, ...tabShown() });
    if (String(query).length > LONGEST_ADDRESS) for (const name of Object.keys(shown)) query.delete(name);
    history.replaceState(history.state, "", `?${query}`);
  }

  // Copies a link to what is shown; `named` is the pair and prompt to be shown next. Returns a message for the reader.
  async copy(named) {
    const query = new URLSearchParams();
    put(query, { ...queryOf(this.read()), ...named, ...this.fields, ...tabShown() });
    const link = `${location.origin}${location.pathname}?${query}`;
    if (link.length > LONGEST_ADDRESS) return "The prompt is too long for a link.";
    return (await copyText(link)) ? "Link copied" : `Copy this link: ${link}`;
  }
}
