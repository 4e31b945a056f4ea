// Which rows are out of date, and asking for them: the row of a slider when a hand is laid on it, the rows of the tracks
// that a move has changed when it settles, and those that came in coarse steps once more after a rest.

const REFINE = 5000;

class ScrubRows {
  constructor(scrub) {
    this.scrub = scrub;
    this.hand = null;
    this.settled = true;
    this.finer = new Set();
    this.fetching = { hand: false, track: false };
  }

  // A hand is on a slider, or about to be: as it moves alone, its row stays right.
  touch(slot) {
    if (!this.scrub.tables) return;
    this.hand = slot;
    this.refresh();
  }

  letGo() {
    this.hand = null;
  }

  begin() {
    this.settled = false;
    this.finer = new Set();
    clearTimeout(this.later);
  }

  rest() {
    this.settled = true;
  }

  settle() {
    this.settled = true;
    this.refresh();
    clearTimeout(this.later);
    this.later = setTimeout(() => this.refine(), REFINE);
  }

  // Rows that came in coarse steps are asked for once more while nothing moves.
  refine() {
    const rows = this.scrub.tables.rows.slice(0, this.scrub.k);
    this.finer = new Set(rows.flatMap((row) => (row.every > 1 ? [row.slot] : [])));
    this.refresh();
  }

  // Of the slider under the hand its row; at rest, the tracks that are no longer right.
  needed() {
    const { hand, settled, finer } = this;
    const { tables, u, k, temperature } = this.scrub;
    const late = hand !== null && hand < k && !rowFits(tables.rows[hand], u, k, temperature) ? hand : null;
    const fits = (row) => row.slot === late || (trackFits(row, u, temperature) && !finer.has(row.slot));
    const stale = settled ? tables.rows.slice(0, k).filter((row) => !fits(row)) : [];
    return { hand: late, tracks: stale.map((row) => row.slot) };
  }

  // Where many ask, a move waits for the row that it needs anyway, and adds no question of its own.
  isOnItsWay() {
    return this.needed().hand !== null && this.scrub.tables.rows.some((row) => row.every > 1);
  }

  refresh() {
    const { scrub } = this;
    if (!scrub.transport || scrub.loading) return;
    const { hand, tracks } = this.needed();
    scrub.root.dataset.tables = hand === null && !tracks.length ? "ready" : "waiting";
    if (hand !== null) this.fetch("hand", [hand], scrub.k);
    if (tracks.length) this.fetchTracks(tracks);
    else if (this.settled) scrub.square.refresh();
  }

  // On a CPU one after another, the first one soonest; a GPU has all nearly as soon as one, and may have to be found.
  fetchTracks(tracks) {
    const { tables, u, k, temperature } = this.scrub;
    const [first] = tracks;
    if (tables.device !== "cpu") this.fetch("track", tracks, k);
    else this.fetch("track", [first], rowFits(tables.rows[first], u, k, temperature) ? k : first + 1);
  }

  // Asks for rows of k slots, once at a time of each kind; what is needed then is looked at anew. A row of fewer slots
  // is but a track, for which the server lets others go first.
  async fetch(kind, slots, k) {
    const { scrub } = this;
    if (this.fetching[kind]) return;
    const { resolution } = scrub.tables;
    const u = scrub.u.slice(0, k);
    const request = scrub.request(scrub.seq, { u, k, slots, resolution, yields: kind === "track" });
    const moved = () => u.some((value, at) => (slots.length > 1 || at !== slots[0]) && value !== scrub.u[at]);
    const wanted = ({ hand, tracks }) => (kind === "hand" ? hand : tracks[0]) === slots[0];
    const heated = () => request.temperature !== scrub.temperature;
    const newer = () => request.epoch !== scrub.epoch || heated() || !wanted(this.needed()) || moved();
    this.fetching[kind] = true;
    for (const slot of slots) this.finer.delete(slot);
    const reply = await ask((r) => scrub.transport.tables(r), request, { newer, busy: (told) => scrub.busy(told) });
    this.fetching[kind] = false;
    if (request.epoch !== scrub.epoch || reply.busy || scrub.takeRows(reply)) this.refresh();
  }
}
