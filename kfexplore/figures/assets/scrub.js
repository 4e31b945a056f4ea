// The state, and what is shown of it. Whatever is shown is shown for one u: a slider's move is answered from its row in
// the page where that is of this u, from the server's point query where not.

const SETTLE = 120;
const PATIENCE_SHOWN = 400;

class Scrub {
  constructor(root, first, transport) {
    this.root = root;
    this.transport = transport;
    this.uid = `kfs${Math.random().toString(36).slice(2, 9)}`;
    this.parts = findParts(root);
    this.page = new ScrubPage(this.parts, this.uid);
    this.k = 0;
    this.u = [];
    this.temperature = 1;
    this.locked = [];
    this.texts = {};
    this.tables = null;
    this.drawn = null;
    this.seq = 0;
    this.slid = null;
    this.mistyped = false;
    this.epoch = 0;
    this.loads = 0;
    this.loading = false;
    this.parts.box.classList.toggle("kfs-noserver", !transport);
    const busy = (reply) => this.busy(reply);
    if (transport) this.points = makeChannel((r) => transport.point(r), (reply, r) => this.takePoint(reply, r), busy);
    this.rows = new ScrubRows(this);
    this.square = new ScrubSquare(this);
    this.map = new ScrubMap(this.parts, this.mapHooks());
    listenControls(this);
    followPage(this);
    this.showFirst(first);
  }

  mapHooks() {
    return {
      text: (id) => this.texts[id],
      u: () => this.u,
      resolution: () => this.tables.resolution,
      colours: () => this.colours(),
      wanted: () => this.square.refresh(),
      pick: (slots, x, y, event) => pickPoint(this, slots, x, y, event),
    };
  }

  // ---- first sight, other prompts, other K

  showFirst(first) {
    if (!first || !first.ok || !this.tryAdopt(first)) this.fail(first && first.failed ? first : NO_ANSWER);
  }

  // Everything of a reply for another prompt, pair or K, in one go; nothing here can fail half-way.
  adopt(tables, grid, keepNoise) {
    const before = this.tables;
    const { k, u: moved, temperature } = this;
    const most = tables.kMax;
    if (!before || before.pair !== tables.pair) this.texts = {};
    if (before) this.map.setGrid(null);
    if (!before || before.kMax !== most) this.rebuild(most);
    this.home = Array.from({ length: most }, (_, slot) => this.home[slot] ?? tables.u[slot] ?? 0.5);
    this.u = this.home.map((u, slot) => tables.u[slot] ?? this.u[slot] ?? u);
    this.k = tables.k;
    this.temperature = tables.temperature;
    this.epoch += 1;
    this.seq += 1;
    this.slid = null;
    this.rows.letGo();
    this.rows.rest();
    if (this.points) this.points.drop();
    this.page.showText(tables);
    this.tables = tables;
    this.parts.broken.hidden = !tables.promptTokens.some(([, text]) => isBroken(text));
    this.setRows(tables.rows, tables.texts);
    showSlotCount(this.parts, this.page.slots, this.k);
    if (grid) {
      this.map.slots = grid.slots.slice();
      this.map.setGrid(grid);
    }
    this.showNoise();
    this.draw(lookUp(tables, this.u, this.k, this.temperature), this.seq);
    this.repaint();
    this.refreshStale();
    this.square.refresh();
    if (keepNoise) {
      this.k = Math.min(k, this.k);
      this.temperature = temperature;
      showSlotCount(this.parts, this.page.slots, this.k);
      this.move(this.u.map((u, slot) => moved[slot] ?? u), null, true);
    }
  }

  rebuild(most) {
    this.page.rebuild(most, (k) => this.chooseK(k));
    this.locked = Array.from({ length: most }, () => false);
    this.page.slots.forEach(({ row }, slot) => listenRow(this, row, slot));
  }

  setRows(rows, texts) {
    for (const row of rows) this.tables.rows[row.slot] = row;
    this.learn(texts);
    this.page.showTracks(this.tables, rows);
    this.root.dataset.tables = "ready";
  }

  learn(texts) {
    Object.assign(this.texts, texts);
    if (Object.values(texts).some(isBroken)) this.parts.broken.hidden = false;
  }

  // Asks for other tables; only an ok reply to the newest call changes anything. Returns whether it did.
  async load(change) {
    if (!this.transport) return false;
    const mine = ++this.loads;
    this.loading = true;
    this.clearMessage();
    clearTimeout(this.addressTimer); // on the browser's way back, this is no longer the address of what is shown
    this.root.dataset.tables = "waiting";
    const { pair, prompt, resolution } = this.tables || { resolution: 512 };
    const { temperature } = this;
    const request = { seq: mine, pair, prompt, u: this.u.slice(0, this.k), temperature, resolution };
    // Another pair may have another K, and shows all of its slots.
    if (change.pair === undefined || change.pair === pair) request.k = this.k;
    else if (change.u === undefined && change.k === undefined) request.fits = true;
    const before = this.seq;
    for (const [name, value] of Object.entries(change)) if (value !== undefined) request[name] = value;
    if (change.u === undefined) request.u = request.u.slice(0, request.k);
    else if (change.k === undefined) delete request.k; // as many as there are numbers
    clearTimeout(this.patience);
    this.patience = setTimeout(() => setText(this.parts.said, "Asking the models…"), PATIENCE_SHOWN);
    const newer = () => mine !== this.loads;
    const busy = (each) => this.busy(each);
    const reply = await ask((r) => this.transport.tables(r), request, { patience: LONG_PATIENCE, newer, busy });
    if (mine !== this.loads) return false;
    this.loading = false;
    clearTimeout(this.patience);
    setText(this.parts.said, "");
    this.root.dataset.tables = "ready";
    const keepNoise = this.seq !== before && change.u === undefined && change.temperature === undefined;
    if (!reply.ok || !this.tryAdopt(reply, keepNoise)) {
      this.fail({ ...(reply.ok ? NO_ANSWER : reply), shown: this.tables, asked: request.pair });
      if (this.tables) this.settle();
      return false;
    }
    this.clearMessage();
    keepAddress(this);
    return true;
  }

  tryAdopt(reply, keepNoise = false) {
    let tables;
    let grid = null;
    try {
      tables = readTables(reply);
      if (reply.grid && reply.grid.ok !== false) grid = readGrid(reply.grid, tables);
    } catch {
      return false;
    }
    this.home = this.home || tables.u.slice();
    this.adopt(tables, grid, keepNoise);
    if (!this.map.observer) this.map.watch();
    return true;
  }

  // Fewer slots are the first rows of the same tables (no slot depends on a later one); more must be asked for.
  async chooseK(k) {
    if (k <= this.tables.k) {
      this.k = k;
      showSlotCount(this.parts, this.page.slots, k);
      this.move(this.u, null);
      this.repaint();
    } else {
      const done = await this.load({ k, u: this.u.slice(0, k) });
      if (done) return;
      showSlotCount(this.parts, this.page.slots, this.k);
      keepAddress(this);
    }
  }

  // ---- moves

  // The one way in which u or the temperature changes.
  move(u, event, settleNow = false) {
    if (this.mistyped) this.clearMessage();
    this.seq += 1;
    this.slid = null;
    this.rows.begin();
    this.began = event ? event.timeStamp : performance.now();
    this.u = u;
    this.showNoise();
    this.answer();
    if (this.root.dataset.source !== "pending") this.time(this.began);
    this.refreshStale();
    if (!this.transport) return;
    clearTimeout(this.timer);
    if (settleNow) this.settle();
    else this.timer = setTimeout(() => this.settle(), SETTLE);
  }

  // ---- answers

  find() {
    const found = lookUp(this.tables, this.u, this.k, this.temperature);
    if (found || this.transport) return found;
    return lookUpPair(this.tables, this.map.grid, this.u, this.k);
  }

  answer() {
    const found = this.find();
    if (found) {
      if (this.points) this.points.drop();
      this.draw(found, this.seq);
    } else {
      this.setSource("pending");
      if (!this.rows.isOnItsWay()) this.points.post(this.request(this.seq));
    }
  }

  request(seq, more) {
    const { pair, prompt } = this.tables;
    const request = { seq, pair, prompt, u: this.u.slice(0, this.k), temperature: this.temperature, ...more };
    // What only this page needs to know stays out of what is sent.
    Object.defineProperties(request, { epoch: { value: this.epoch }, began: { value: this.began } });
    return request;
  }

  // An older reply than what is drawn is dropped; while a newer one is due, the page stays "pending".
  takePoint(reply, request) {
    if (request.epoch !== this.epoch || (this.drawn && request.seq < this.drawn.seq)) return;
    if (!reply.ok) {
      this.fail(reply);
      if (request.seq === this.seq) this.restore();
      return;
    }
    this.learn(reply.texts);
    const newest = request.seq === this.seq;
    this.draw({ ...reply, source: newest ? "server" : "pending" }, request.seq, request);
    this.time(request.began);
    if (newest) this.recover();
  }

  settle() {
    clearTimeout(this.timer);
    if (!this.transport || this.rows.settled) return;
    this.rows.settle();
    keepAddress(this);
  }

  // Of the reply to a question for rows; returns whether there were any.
  takeRows(reply) {
    this.root.dataset.tables = "ready";
    let rows = null;
    try {
      rows = reply.ok && readRows(reply);
    } catch {
      reply = NO_ANSWER;
    }
    if (!rows) {
      this.fail(reply);
      if (this.root.dataset.source === "pending" && !this.points.busy()) this.restore();
      return false;
    }
    this.setRows(rows, reply.texts);
    if (this.root.dataset.source === "pending") this.catchUp();
    this.recover();
    this.repaint();
    this.refreshStale();
    return true;
  }

  // A row has come for which a move has waited: where it knows but some steps, the slider that moved goes to one.
  catchUp() {
    const { slid } = this;
    if (slid !== null && rowFits(this.tables.rows[slid], this.u, this.k, this.temperature)) {
      this.u = movedTo(this, slid, snapped(this.u[slid], this.tables.resolution, strideOf(this, slid)));
      this.seq += 1;
      this.showNoise();
      keepAddress(this);
    }
    this.answer();
    if (this.root.dataset.source !== "pending") this.time(this.began);
  }

  // After a failure: back to the u and the temperature whose tokens are on the page.
  restore() {
    this.seq += 1;
    this.rows.rest();
    this.u = this.drawn.u.concat(this.u.slice(this.drawn.u.length));
    this.temperature = this.drawn.temperature;
    this.root.dataset.tables = "ready";
    this.showNoise();
    const { answer } = this.drawn;
    this.draw({ ...answer, source: answer.source === "pending" ? "server" : answer.source }, this.seq);
    this.refreshStale();
  }

  // ---- the page

  draw(answer, seq, { u, temperature } = this) {
    this.drawn = { answer, seq, u: u.slice(), temperature };
    this.page.showAnswer(answer, u, this.k, (id) => this.text(id));
    this.root.dataset.seq = seq;
    this.setSource(answer.source);
  }

  // From the event to the page showing its answer, in ms.
  time(began) {
    this.root.dataset.paintMs = (performance.now() - began).toFixed(2);
  }

  text(id) {
    return id === null ? "?" : labelOf(this.texts[id]);
  }

  setSource(source) {
    this.root.dataset.source = source;
  }

  showNoise() {
    this.page.showNoise(this.u, this.k);
    this.page.showTemperature(this.temperature, this.tables.trained);
    this.root.dataset.u = this.u.slice(0, this.k).join(",");
    this.root.dataset.k = this.k;
    this.root.dataset.temperature = this.temperature;
    this.map.cross();
  }

  refreshStale() {
    const { pair, prompt } = this.tables;
    const asks = Boolean(this.transport);
    this.page.showStale(this.tables, this, asks);
    this.map.markStale(Boolean(this.map.grid) && !this.map.matches(pair, prompt, this), asks);
  }

  repaint() {
    if (!this.tables) return;
    this.page.paint(this.k, this.colours(), (id) => this.text(id));
    this.map.paint();
  }

  colours() {
    return isDark(this.parts.box) ? PALETTE.dark : PALETTE.light;
  }

  // The server has too much to do just now; what is on the page stays, and the question is asked again.
  busy(reply) {
    this.root.dataset.busy = Boolean(reply);
    setText(this.parts.said, reply ? `${reply.failed} Asking again…` : "");
  }

  fail(failure, mistyped = false) {
    this.mistyped = mistyped;
    showMessage(this.parts.message, failure);
  }

  // The server answers again; what the reader mistyped stays told until the next move.
  recover() {
    if (!this.mistyped) this.clearMessage();
  }

  clearMessage() {
    this.mistyped = false;
    if (this.parts.message.textContent) showMessage(this.parts.message, null);
  }
}
