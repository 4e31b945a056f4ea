// Links: what is shown, in the query of the page's address.

const LONGEST_ADDRESS = 6000; // servers on the way refuse longer ones, and this one far longer ones
const PAUSE = 400; // milliseconds; browsers refuse an address that changes more than some three times a second

// u goes in at full precision: a link must open on the very same tokens.
function queryOf({ context, k, u, temperature }) {
  const query = { pair: context.pair, prompt: context.prompt, k, u: u.slice(0, k).join(",") };
  return temperature === 1 ? query : { ...query, temperature };
}

// Copies a link to what is shown. Returns what to tell the reader.
export async function copyLink(state) {
  const link = `${location.origin}${location.pathname}?${new URLSearchParams(queryOf(state))}`;
  if (link.length > LONGEST_ADDRESS) return "The prompt is too long for a link.";
  return (await copyText(link)) ? "Link copied" : `Copy this link: ${link}`;
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
    if (!this.read().context || !location.protocol.startsWith("http")) return;
    const query = new URLSearchParams(location.search);
    query.delete("temperature");
    const shown = Object.entries(queryOf(this.read()));
    for (const [name, value] of shown) query.set(name, value);
    if (String(query).length > LONGEST_ADDRESS) for (const [name] of shown) query.delete(name);
    history.replaceState(history.state, "", `?${query}`);
  }
}
