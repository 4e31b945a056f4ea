// Canvas painting of the two-slot map. x: noise of the earlier slot, y: noise of the later slot, upward.

// grid[model] is [step of x][step of y][2]; show = {model: "teacher"|"student", differ: bool}.
function paintMap(canvas, grid, show, colours, text) {
  const area = fitCanvas(canvas);
  if (!area) return;
  const { context, ratio } = area;
  const size = Math.min(area.width, area.height);
  const edge = (step) => Math.round((step * size) / grid.resolution);
  const keys = pairKeys(grid[show.model], grid.resolution);
  context.imageSmoothingEnabled = false;
  context.drawImage(cellImage(grid[show.model], grid.resolution, colours), 0, 0, size, size);
  if (show.model === "student") hatchMap(context, size, colours, ratio);
  if (show.differ) coverDifferences(context, grid, size, edge, colours, ratio);
  paintBorders(context, keys, grid.resolution, size, edge, colours, ratio);
  if (!show.differ) paintRegionLabels(context, keys, grid, show.model, size, colours, text, ratio);
}

// One number for each pair of tokens, so that cells can be compared; [x][y].
function pairKeys(tokens, resolution) {
  const keys = new Float64Array(resolution * resolution);
  for (let at = 0; at < keys.length; at++) keys[at] = tokens[2 * at] * 65536 + tokens[2 * at + 1];
  return keys;
}

function cellImage(tokens, resolution, colours) {
  const rgb = colours.fills.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return tile(resolution, resolution, (pen) => {
    const image = pen.createImageData(resolution, resolution);
    for (let x = 0; x < resolution; x++) {
      for (let y = 0; y < resolution; y++) {
        const [red, green, blue] = rgb[hueOf(tokens[2 * (x * resolution + y) + 1])];
        image.data.set([red, green, blue, 255], 4 * ((resolution - 1 - y) * resolution + x));
      }
    }
    pen.putImageData(image, 0, 0);
  });
}

function hatchMap(context, size, colours, ratio) {
  const step = Math.round(7 * ratio);
  const image = cached(`hatchmap ${colours.surface} ${step}`, () =>
    tile(step, step, (pen) => {
      pen.globalAlpha = 0.55;
      strokeDiagonal(pen, step, colours.surface, 2.6 * ratio);
    })
  );
  context.fillStyle = context.createPattern(image, "repeat");
  context.fillRect(0, 0, size, size);
}

function coverDifferences(context, grid, size, edge, colours, ratio) {
  const { resolution } = grid;
  const exact = pairKeys(grid.teacher, resolution);
  const learned = pairKeys(grid.student, resolution);
  context.fillStyle = crossed(context, colours, ratio);
  for (let x = 0; x < resolution; x++) {
    for (let y = 0; y < resolution; y++) {
      if (exact[x * resolution + y] === learned[x * resolution + y]) continue;
      const top = size - edge(y + 1);
      context.fillRect(edge(x), top, edge(x + 1) - edge(x), size - edge(y) - top);
    }
  }
}

function paintBorders(context, keys, resolution, size, edge, colours, ratio) {
  const line = Math.max(1, Math.round(ratio));
  context.fillStyle = colours.ink;
  context.globalAlpha = 0.45;
  for (let x = 0; x < resolution; x++) {
    for (let y = 0; y < resolution; y++) {
      const at = x * resolution + y;
      const top = size - edge(y + 1);
      if (x + 1 < resolution && keys[at] !== keys[at + resolution]) {
        context.fillRect(edge(x + 1), top, line, size - edge(y) - top);
      }
      if (y + 1 < resolution && keys[at] !== keys[at + 1]) {
        context.fillRect(edge(x), top, edge(x + 1) - edge(x), line);
      }
    }
  }
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
  const first = keys[x * resolution + y];
  for (let up = 1; up < tall; up++) if (keys[x * resolution + y + up] !== first) return false;
  return true;
}

// Of equally long stretches the middle one is kept, so that a label sits in the middle of its region.
function offerPlace(places, key, from, to, y) {
  const best = places.get(key);
  if (!best || to - from > best.to - best.from) places.set(key, { from, to, low: y, high: y });
  else if (to - from === best.to - best.from && from === best.from && y === best.high + 1) best.high = y;
}

function paintRegionLabels(context, keys, grid, model, size, colours, text, ratio) {
  const cell = size / grid.resolution;
  const tall = Math.max(1, Math.ceil((15 * ratio) / cell));
  context.font = `500 ${Math.round(12 * ratio)}px ${FONT}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const [key, place] of labelPlaces(keys, grid.resolution, tall)) {
    const room = (place.to - place.from) * cell - 8 * ratio;
    const both = `${text(Math.floor(key / 65536))}${text(key % 65536)}`;
    if (context.measureText(both).width > room) continue;
    const y = size - ((place.low + place.high + tall) / 2) * cell;
    const x = ((place.from + place.to) / 2) * cell;
    writeLabel(context, both, x, y, colours, hueOf(key % 65536), ratio, model === "student");
  }
}
