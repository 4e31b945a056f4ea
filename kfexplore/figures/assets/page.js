// The rows and chips as one thing: shows a u, an answer, what is out of date, and paints the tracks.

class ScrubPage {
  constructor(parts, uid) {
    this.parts = parts;
    this.uid = uid;
    this.slots = [];
  }

  rebuild(most, onChooseK) {
    this.slots = buildSlots(this.parts, this.uid, most, onChooseK);
  }

  showTracks(tables) {
    for (let slot = 0; slot < tables.k; slot++) {
      const exact = trackRuns(tables, "teacher", slot);
      const learned = trackRuns(tables, "student", slot);
      const parts = compareRuns(exact, learned);
      const share = sharedSteps(parts) / tables.resolution;
      this.slots[slot].row.track = { resolution: tables.resolution, exact, learned, parts, share };
    }
    showOrigin(this.parts.origin, tables);
  }

  showText(tables) {
    showPrompt(this.parts.prompt, tables.promptTokens);
    this.parts.note.hidden = !tables.note;
    this.parts.note.textContent = tables.note || "";
  }

  showNoise(u, k) {
    for (let slot = 0; slot < k; slot++) {
      const { row } = this.slots[slot];
      const value = String(u[slot]);
      if (row.range.value !== value) row.range.value = value;
      if (row.field.value !== value) row.field.value = value;
    }
  }

  // Changes only what differs: this runs at every step of a drag.
  showAnswer(answer, u, k, text) {
    let agreeing = 0;
    let known = 0;
    for (let slot = 0; slot < k; slot++) {
      const { row, cell } = this.slots[slot];
      const exact = answer.teacher[slot];
      const learned = answer.student[slot];
      const labels = { exact: text(exact), learned: text(learned) };
      showCell(cell, { exact, learned, margin: answer.margin[slot], edge: answer.edge[slot] }, labels);
      const spoken = `${u[slot].toFixed(3)}, exact ${labels.exact}, learned ${labels.learned}`;
      row.range.setAttribute("aria-valuetext", spoken);
      known += exact !== null;
      agreeing += exact !== null && exact === learned;
    }
    setText(this.parts.agree, `${agreeing} of ${known} ${known < k ? "known " : ""}slots agree`);
  }

  // A track hangs on the noise of the slots before its own, and on nothing else.
  showStale(tables, u, k, hasServer) {
    let stale = false;
    for (let slot = 0; slot < k; slot++) {
      const { row } = this.slots[slot];
      row.root.classList.toggle("kfs-stale", stale);
      row.strip.setAttribute("aria-busy", String(stale && hasServer));
      setText(row.share, stale && !hasServer ? "this track belongs to the starting noise" : shareText(row.track));
      stale = stale || u[slot] !== tables.u[slot];
    }
  }

  paint(k, colours, text) {
    for (const { row } of this.slots.slice(0, k)) paintTrack(row.canvas, row.track, colours, text);
  }
}

function shareText(track) {
  if (!track) return "";
  return `exact and learned agree on ${Math.round(track.share * 100)} % of this track`;
}
