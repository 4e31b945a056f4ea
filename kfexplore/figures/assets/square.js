// The square of two slots, asked for: once it is in sight, at rest, and where the one that is drawn is of other noise,
// slots or tables.

class ScrubSquare {
  constructor(scrub) {
    const { transport } = scrub;
    this.scrub = scrub;
    this.seq = 0;
    this.key = null;
    const busy = (reply) => scrub.busy(reply);
    if (transport) this.grids = makeChannel((r) => transport.grid(r), (reply, r) => this.take(reply, r), busy);
  }

  refresh() {
    const { map, k, tables, transport } = this.scrub;
    if (!tables || !map.offer(k, Boolean(transport))) return;
    this.scrub.refreshStale();
    if (transport && map.visible && !map.matches(tables.pair, tables.prompt, this.scrub)) this.ask();
  }

  ask() {
    const { epoch, map, u, temperature } = this.scrub;
    const key = JSON.stringify([epoch, map.slots, u, temperature]);
    if (this.key === key) return;
    this.key = key;
    map.markStale(true, true);
    this.seq += 1;
    this.grids.post(this.scrub.request(this.seq, { slots: map.slots.slice() }));
  }

  take(reply, request) {
    if (request.epoch !== this.scrub.epoch || request.seq !== this.seq) return;
    this.key = null;
    try {
      if (reply.ok) this.scrub.map.setGrid(readGrid(reply, request));
      else this.giveUp(reply);
    } catch {
      this.giveUp(NO_ANSWER);
    }
    this.scrub.refreshStale();
  }

  giveUp(reply) {
    this.scrub.fail(reply);
    this.scrub.map.giveUp(this.scrub.k);
  }
}
