// Canvas painting of tracks. All lengths are device pixels once a canvas has been fitted.

const FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
const TRACK = { exact: 30, lane: 10, learned: 26 };
const TRACK_HEIGHT = TRACK.exact + TRACK.lane + TRACK.learned;

// Gives the canvas one pixel a device pixel. Returns {context, width, height, ratio}, or null while it is hidden.
function fitCanvas(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (!width || !height) return null;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.globalAlpha = 1;
  context.clearRect(0, 0, width, height);
  return { context, width, height, ratio };
}

function tile(width, height, draw) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  draw(canvas.getContext("2d"));
  return canvas;
}

// Diagonal lines that meet across the tile's edges.
function strokeDiagonal(context, size, colour, thickness) {
  context.strokeStyle = colour;
  context.lineWidth = thickness;
  context.beginPath();
  for (const shift of [-size, 0, size]) {
    context.moveTo(shift - 1, size + 1);
    context.lineTo(shift + size + 1, -1);
  }
  context.stroke();
}

const tileCache = new Map();

function cached(key, make) {
  if (!tileCache.has(key)) tileCache.set(key, make());
  return tileCache.get(key);
}

// The look of a learned token: its hue's light ground under diagonal lines.
function hatch(context, colours, hue, ratio) {
  const size = Math.round(7 * ratio);
  const image = cached(`hatch ${colours.surface} ${hue} ${size}`, () =>
    tile(size, size, (pen) => {
      pen.fillStyle = colours.tints[hue];
      pen.fillRect(0, 0, size, size);
      strokeDiagonal(pen, size, colours.fills[hue], 1.7 * ratio);
    })
  );
  return context.createPattern(image, "repeat");
}

// A sign of inequality drawn out to any length: two lines, crossed by strokes.
function unequal(context, colours, ratio) {
  const width = Math.round(13 * ratio);
  const height = Math.round(TRACK.lane * ratio);
  const image = cached(`unequal ${colours.surface} ${width}`, () =>
    tile(width, height, (pen) => {
      pen.fillStyle = colours.surface;
      pen.fillRect(0, 0, width, height);
      pen.fillStyle = colours.differ;
      pen.globalAlpha = 0.5;
      const line = Math.max(1, Math.round(ratio));
      for (const share of [0.36, 0.64]) pen.fillRect(0, Math.round(height * share - line / 2), width, line);
      pen.globalAlpha = 0.95;
      pen.strokeStyle = colours.differ;
      pen.lineWidth = Math.max(1, 1.2 * ratio);
      pen.beginPath();
      pen.moveTo(width * 0.34, height * 0.86);
      pen.lineTo(width * 0.66, height * 0.14);
      pen.stroke();
    })
  );
  return context.createPattern(image, "repeat");
}

// Small crosses over the cells of a map where the two models part.
function crossed(context, colours, ratio) {
  const size = Math.round(8 * ratio);
  const image = cached(`crossed ${colours.surface} ${size}`, () =>
    tile(size, size, (pen) => {
      pen.globalAlpha = 0.72;
      pen.fillStyle = colours.surface;
      pen.fillRect(0, 0, size, size);
      pen.globalAlpha = 0.8;
      strokeDiagonal(pen, size, colours.differ, 1.1 * ratio);
    })
  );
  return context.createPattern(image, "repeat");
}

// One track: exact bands, the lane that joins or parts them, learned bands.
// track = {resolution, exact: runs, learned: runs, parts: compareRuns(...)}, text = id -> label.
function paintTrack(canvas, track, colours, text) {
  const area = fitCanvas(canvas);
  if (!area) return;
  const { context, width, ratio } = area;
  const x = (step) => Math.round((step * width) / track.resolution);
  const exactTo = Math.round(TRACK.exact * ratio);
  const laneTo = Math.round((TRACK.exact + TRACK.lane) * ratio);
  const bottom = area.height;

  paintLane(context, track.parts, colours, x, exactTo, laneTo, ratio);
  for (const run of track.exact) {
    context.fillStyle = colours.fills[hueOf(run.id)];
    context.fillRect(x(run.from), 0, x(run.to) - x(run.from), exactTo);
  }
  for (const run of track.learned) {
    context.fillStyle = hatch(context, colours, hueOf(run.id), ratio);
    context.fillRect(x(run.from), laneTo, x(run.to) - x(run.from), bottom - laneTo);
  }
  paintHairlines(context, track.exact, colours, x, 0, exactTo, ratio);
  paintHairlines(context, track.learned, colours, x, laneTo, bottom, ratio);
  paintLabels(context, track.exact, colours, text, x, exactTo / 2, ratio, false);
  paintLabels(context, track.learned, colours, text, x, (laneTo + bottom) / 2, ratio, true);
}

// Where both agree the exact colour runs on through the lane; where not, the sign of inequality fills it.
function paintLane(context, parts, colours, x, top, bottom, ratio) {
  context.save();
  context.translate(0, top);
  for (const part of parts) {
    context.fillStyle = part.same ? colours.fills[hueOf(part.id)] : unequal(context, colours, ratio);
    context.fillRect(x(part.from), 0, x(part.to) - x(part.from), bottom - top);
  }
  context.restore();
}

// Bands a few pixels wide get a thinner line, or the lines would be all there is to see.
function paintHairlines(context, runs, colours, x, top, bottom, ratio) {
  context.fillStyle = colours.ink;
  const line = Math.max(1, Math.round(ratio));
  for (let i = 1; i < runs.length; i++) {
    const left = x(runs[i - 1].to) - x(runs[i - 1].from);
    const right = x(runs[i].to) - x(runs[i].from);
    context.globalAlpha = Math.min(left, right) < 5 * ratio ? 0.22 : 0.5;
    context.fillRect(x(runs[i].from), top, line, bottom - top);
  }
  context.globalAlpha = 1;
}

function paintLabels(context, runs, colours, text, x, middle, ratio, halo) {
  context.font = `500 ${Math.round(13 * ratio)}px ${FONT}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const run of runs) {
    const room = x(run.to) - x(run.from) - 8 * ratio;
    const label = room > 5 * ratio ? fitted(context, text(run.id), room) : "";
    if (label) writeLabel(context, label, (x(run.from) + x(run.to)) / 2, middle, colours, hueOf(run.id), ratio, halo);
  }
}

function writeLabel(context, label, x, y, colours, hue, ratio, halo) {
  if (halo) {
    context.strokeStyle = colours.tints[hue];
    context.lineWidth = 4 * ratio;
    context.strokeText(label, x, y);
  }
  context.fillStyle = colours.ink;
  context.fillText(label, x, y);
}

// The label, or its beginning with an ellipsis; nothing where fewer than two letters would be left.
function fitted(context, label, room) {
  if (context.measureText(label).width <= room) return label;
  const letters = Array.from(label);
  for (let length = Math.min(letters.length - 1, 24); length >= 3; length--) {
    const cut = `${letters.slice(0, length).join("")}…`;
    if (context.measureText(cut).width <= room) return cut;
  }
  return "";
}
