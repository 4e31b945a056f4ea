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

  showTracks(tables, rows) {
    for (const row of rows) {
      const exact = trackRuns(row, "teacher");
      const learned = row.student ? trackRuns(row, "student") : [];
      const parts = compareRuns(exact, learned);
      const share = row.student ? sharedSteps(parts) / row.resolution : null;
      const shown = this.slots[row.slot].row;
      shown.track = { resolution: row.resolution, exact, learned, parts, share };
      shown.strip.style.height = `${row.student ? TRACK_HEIGHT : TRACK.exact}px`;
    }
    this.parts.box.classList.toggle("kfs-exactonly", !tables.point.student);
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

  // `trained`: the temperatures that the student was trained with, and what to say of others; missing without a student.
  showTemperature(temperature, trained) {
    const { heat, degrees, cold } = this.parts;
    if (Number(heat.value) !== temperature) heat.value = String(temperature);
    setText(degrees, String(temperature));
    const outside = Boolean(trained) && !(temperature >= trained.low && temperature <= trained.high);
    setText(cold, outside ? trained.note : "");
  }

  // Changes only what differs: this runs at every step of a drag.
  showAnswer(answer, u, k, text) {
    let agreeing = 0;
    let known = 0;
    for (let slot = 0; slot < k; slot++) {
      const { row, cell } = this.slots[slot];
      const exact = answer.teacher[slot];
      const learned = answer.student ? answer.student[slot] : null;
      const labels = { exact: text(exact), learned: text(learned) };
      const margin = answer.student ? answer.margin[slot] : null;
      showCell(cell, { exact, learned, margin, edge: answer.edge[slot] }, labels);
      const spoken = `${u[slot].toFixed(3)}, exact ${labels.exact}`;
      row.range.setAttribute("aria-valuetext", answer.student ? `${spoken}, learned ${labels.learned}` : spoken);
      known += exact !== null;
      agreeing += exact !== null && exact === learned;
    }
    const slots = known === 1 ? "slot agrees" : "slots agree";
    const agree = `${agreeing} of ${known} ${known < k ? "known " : ""}${slots}`;
    setText(this.parts.agree, answer.student ? agree : "");
    const row = (ids) => ids.slice(0, k).map(text).join(" ");
    tellAtRest(this.parts, () => {
      const exact = `Exact: ${row(answer.teacher)}.`;
      return answer.student ? `${agree}. ${exact} Learned: ${row(answer.student)}.` : exact;
    });
  }

  // A track hangs on the noise of the slots before its own, and on nothing else.
  showStale(tables, { u, k, temperature }, hasServer) {
    for (let slot = 0; slot < k; slot++) {
      const { row } = this.slots[slot];
      const stale = !tables.rows[slot] || !trackFits(tables.rows[slot], u, temperature);
      row.root.classList.toggle("kfs-stale", stale);
      row.strip.setAttribute("aria-busy", String(stale && hasServer));
      setText(row.share, stale && !hasServer ? "track of the starting noise" : shareText(row.track));
      row.range.setAttribute("aria-description", row.share.textContent);
    }
  }

  paint(k, colours, text) {
    for (const { row } of this.slots.slice(0, k)) paintTrack(row.canvas, row.track, colours, text);
  }
}

function shareText(track) {
  if (!track || track.share === null) return "";
  return `agree on ${Math.round(track.share * 100)} % of this track`;
}
