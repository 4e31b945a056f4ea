// Paints tracks and the grid of two slots on canvases. Lengths are in device pixels once a canvas is fitted.
// A pen is {context, width, height, ratio, colours, text}: `text` gives the label of a token id.

import { hueOf } from "./tokens.js";

const FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
export const TRACK = { exact: 30, lane: 10, learned: 26 };

// Clears the canvas and sets its resolution to device pixels. Returns a pen, or null while the canvas is hidden.
export function fitCanvas(canvas, colours, text) {
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
  return { context, width, height, ratio, colours, text };
}

function tile(width, height, draw) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  draw(canvas.getContext("2d"));
  return canvas;
}

const tiles = new Map();

// A pattern of tiles of wide x high CSS pixels, drawn once per name, theme and size by draw(context, width, height).
function pattern({ context, colours, ratio }, name, wide, high, draw) {
  const [width, height] = [Math.round(wide * ratio), Math.round(high * ratio)];
  const key = [name, colours.surface, width].join(" ");
  if (!tiles.has(key)) tiles.set(key, tile(width, height, (brush) => draw(brush, width, height)));
  return context.createPattern(tiles.get(key), "repeat");
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

// Pattern of a learned token: diagonal lines over the light tint of its hue.
function hatch(pen, hue) {
  const { colours, ratio } = pen;
  return pattern(pen, `hatch ${hue}`, 7, 7, (brush, size) => {
    brush.fillStyle = colours.tints[hue];
    brush.fillRect(0, 0, size, size);
    strokeDiagonal(brush, size, colours.fills[hue], 1.7 * ratio);
  });
}

// A "not equal" sign stretched to any length: two lines, crossed by strokes.
function unequal(pen) {
  const { colours, ratio } = pen;
  return pattern(pen, "unequal", 13, TRACK.lane, (brush, width, height) => {
    brush.fillStyle = colours.surface;
    brush.fillRect(0, 0, width, height);
    brush.fillStyle = colours.differ;
    brush.globalAlpha = 0.5;
    const line = Math.max(1, Math.round(ratio));
    for (const share of [0.36, 0.64]) brush.fillRect(0, Math.round(height * share - line / 2), width, line);
    brush.globalAlpha = 0.95;
    brush.strokeStyle = colours.differ;
    brush.lineWidth = Math.max(1, 1.2 * ratio);
    brush.beginPath();
    brush.moveTo(width * 0.34, height * 0.86);
    brush.lineTo(width * 0.66, height * 0.14);
    brush.stroke();
  });
}

// Paints one track: exact bands, learned bands, and the lane between them.
// track: {resolution, exact: runs, learned: runs, stretches: compareRuns(...)}.
export function paintTrack(canvas, track, colours, text) {
  const pen = fitCanvas(canvas, colours, text);
  if (!pen) return;
  const { context, width, height, ratio } = pen;
  const x = (step) => Math.round((step * width) / track.resolution);
  const exact = { top: 0, bottom: Math.round(TRACK.exact * ratio) };
  const lane = { top: exact.bottom, bottom: Math.round((TRACK.exact + TRACK.lane) * ratio) };
  const learned = { top: lane.bottom, bottom: height };
  const fill = ({ id }) => colours.fills[hueOf(id)];

  // Where both agree, the exact colour fills the lane; where they differ, the "not equal" pattern does.
  context.save();
  context.translate(0, lane.top);
  const inLane = { top: 0, bottom: lane.bottom - lane.top };
  paintBands(pen, track.stretches, x, inLane, (part) => (part.same ? fill(part) : unequal(pen)));
  context.restore();
  paintBands(pen, track.exact, x, exact, fill);
  paintBands(pen, track.learned, x, learned, ({ id }) => hatch(pen, hueOf(id)));
  for (const [runs, place] of [[track.exact, exact], [track.learned, learned]]) paintHairlines(pen, runs, x, place);
  paintLabels(pen, track.exact, x, exact, false);
  paintLabels(pen, track.learned, x, learned, true);
}

function paintBands({ context }, runs, x, { top, bottom }, fill) {
  for (const run of runs) {
    context.fillStyle = fill(run);
    context.fillRect(x(run.from), top, x(run.to) - x(run.from), bottom - top);
  }
}

// Bands a few pixels wide get thinner lines, which would hide them otherwise.
function paintHairlines({ context, colours, ratio }, runs, x, { top, bottom }) {
  context.fillStyle = colours.ink;
  const line = Math.max(1, Math.round(ratio));
  const width = (run) => x(run.to) - x(run.from);
  for (let i = 1; i < runs.length; i++) {
    context.globalAlpha = Math.min(width(runs[i - 1]), width(runs[i])) < 5 * ratio ? 0.22 : 0.5;
    context.fillRect(x(runs[i].from), top, line, bottom - top);
  }
  context.globalAlpha = 1;
}

function paintLabels(pen, runs, x, { top, bottom }, halo) {
  setFont(pen, 13);
  for (const run of runs) {
    const room = x(run.to) - x(run.from) - 8 * pen.ratio;
    const label = room > 5 * pen.ratio ? fitted(pen.context, pen.text(run.id), room) : "";
    if (label) writeLabel(pen, label, (x(run.from) + x(run.to)) / 2, (top + bottom) / 2, hueOf(run.id), halo);
  }
}

function setFont({ context, ratio }, size) {
  const font = `500 ${Math.round(size * ratio)}px ${FONT}`;
  Object.assign(context, { font, textAlign: "center", textBaseline: "middle", lineJoin: "round" });
}

// The label of a learned token has a halo, so that it is legible over the hatching.
function writeLabel({ context, colours, ratio }, label, x, y, hue, halo) {
  if (halo) {
    context.strokeStyle = colours.tints[hue];
    context.lineWidth = 4 * ratio;
    context.strokeText(label, x, y);
  }
  context.fillStyle = colours.ink;
  context.fillText(label, x, y);
}

// The label, shortened with an ellipsis if needed; empty if fewer than two letters would be left.
function fitted(context, label, room) {
  if (context.measureText(label).width <= room) return label;
  const letters = Array.from(label);
  for (let length = Math.min(letters.length - 1, 24); length >= 3; length--) {
    const cut = `${letters.slice(0, length).join("")}…`;
    if (context.measureText(cut).width <= room) return cut;
  }
  return "";
}

// Paints the grid: noise of the earlier slot on the x axis, of the later one on the y axis. grid[model] is
// [step of x][step of y][2], with model "teacher" or "student".
export function paintGrid(canvas, grid, model, marksDifferences, colours, text) {
  const pen = fitCanvas(canvas, colours, text);
  if (!pen) return;
  const { context, ratio } = pen;
  const { resolution } = grid;
  const size = Math.min(pen.width, pen.height);
  const keys = pairKeys(grid[model]);
  context.imageSmoothingEnabled = false;
  context.drawImage(cellImage(grid[model], resolution, colours), 0, 0, size, size);
  if (model === "student") {
    context.fillStyle = pattern(pen, "hatched grid", 7, 7, (brush, step) => {
      brush.globalAlpha = 0.55;
      strokeDiagonal(brush, step, colours.surface, 2.6 * ratio);
    });
    context.fillRect(0, 0, size, size);
  }
  if (marksDifferences) coverDifferences(pen, grid, size);
  paintBorders(pen, keys, resolution, size);
  if (!marksDifferences) paintRegionLabels(pen, keys, resolution, size, model === "student");
}

// One number per pair of tokens, to compare cells; [x][y].
function pairKeys(tokens) {
  return Float64Array.from({ length: tokens.length / 2 }, (_, at) => tokens[2 * at] * 65536 + tokens[2 * at + 1]);
}

function cellImage(tokens, resolution, colours) {
  const rgb = colours.fills.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return tile(resolution, resolution, (brush) => {
    const image = brush.createImageData(resolution, resolution);
    for (let x = 0; x < resolution; x++) {
      for (let y = 0; y < resolution; y++) {
        const [red, green, blue] = rgb[hueOf(tokens[2 * (x * resolution + y) + 1])];
        image.data.set([red, green, blue, 255], 4 * ((resolution - 1 - y) * resolution + x));
      }
    }
    brush.putImageData(image, 0, 0);
  });
}

// Calls visit(cell, left, top, width, height) for every cell of a square of `size` pixels.
function eachCell(resolution, size, visit) {
  const edge = (step) => Math.round((step * size) / resolution);
  for (let x = 0; x < resolution; x++) {
    for (let y = 0; y < resolution; y++) {
      const top = size - edge(y + 1);
      visit(x * resolution + y, edge(x), top, edge(x + 1) - edge(x), size - edge(y) - top);
    }
  }
}

// Small crosses over the cells where the two models differ.
function coverDifferences(pen, { teacher, student, resolution }, size) {
  const [exact, learned] = [pairKeys(teacher), pairKeys(student)];
  pen.context.fillStyle = pattern(pen, "crossed", 8, 8, (brush, step) => {
    brush.globalAlpha = 0.72;
    brush.fillStyle = pen.colours.surface;
    brush.fillRect(0, 0, step, step);
    brush.globalAlpha = 0.8;
    strokeDiagonal(brush, step, pen.colours.differ, 1.1 * pen.ratio);
  });
  eachCell(resolution, size, (at, ...cell) => exact[at] !== learned[at] && pen.context.fillRect(...cell));
}

function paintBorders({ context, colours, ratio }, keys, resolution, size) {
  const line = Math.max(1, Math.round(ratio));
  context.fillStyle = colours.ink;
  context.globalAlpha = 0.45;
  eachCell(resolution, size, (at, left, top, width, height) => {
    const [isLastColumn, isLastRow] = [at + resolution >= keys.length, (at + 1) % resolution === 0];
    if (!isLastColumn && keys[at] !== keys[at + resolution]) context.fillRect(left + width, top, line, height);
    if (!isLastRow && keys[at] !== keys[at + 1]) context.fillRect(left, top, width, line);
  });
  context.globalAlpha = 1;
}

// The place for a pair's label: the longest stretch of cells, `tall` rows high, that shows nothing else.
function labelPlaces(keys, resolution, tall) {
  const places = new Map();
  for (let y = 0; y + tall <= resolution; y++) {
    let from = 0;
    for (let x = 0; x <= resolution; x++) {
      const whole = x < resolution && columnIsOne(keys, resolution, x, y, tall);
      const goesOn = whole && x > from && keys[x * resolution + y] === keys[(x - 1) * resolution + y];
      if (goesOn) continue;
      if (x > from) offerPlace(places, keys[(x - 1) * resolution + y], from, x, y);
      from = whole ? x : x + 1;
    }
  }
  return places;
}

function columnIsOne(keys, resolution, x, y, tall) {
  const column = keys.subarray(x * resolution + y, x * resolution + y + tall);
  return column.every((key) => key === column[0]);
}

// Of equally long stretches, keeps the middle one, so that the label is in the middle of its region.
function offerPlace(places, key, from, to, y) {
  const best = places.get(key);
  if (!best || to - from > best.to - best.from) places.set(key, { from, to, low: y, high: y });
  else if (to - from === best.to - best.from && from === best.from && y === best.high + 1) best.high = y;
}

function paintRegionLabels(pen, keys, resolution, size, halo) {
  const cell = size / resolution;
  const tall = Math.max(1, Math.ceil((15 * pen.ratio) / cell));
  setFont(pen, 12);
  for (const [key, { from, to, low, high }] of labelPlaces(keys, resolution, tall)) {
    const [first, second] = [Math.floor(key / 65536), key % 65536];
    const both = `${pen.text(first)}${pen.text(second)}`;
    if (pen.context.measureText(both).width > (to - from) * cell - 8 * pen.ratio) continue;
    writeLabel(pen, both, ((from + to) / 2) * cell, size - ((low + high + tall) / 2) * cell, hueOf(second), halo);
  }
}
