// Canvas painting of the grid of two slots. x: noise of the earlier slot, y: noise of the later slot, upward.

import { fitCanvas, pattern, setFont, strokeDiagonal, tile, writeLabel } from "./paint.js";
import { hueOf } from "./tokens.js";

// grid[model] is [step of x][step of y][2]; model "teacher" or "student".
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

// One number for each pair of tokens, so that cells can be compared; [x][y].
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

// Calls visit(cell, left, top, width, height) for every cell of a square of that size.
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

// Of equally long stretches the middle one is kept, so that a label sits in the middle of its region.
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
