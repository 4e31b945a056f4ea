// Files that the page writes on the reader's machine; the server keeps none.

export function saveBlob(name, blob) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Saves a PNG: lines of text, then panels {label, canvas} below or beside each other.
export function savePicture(name, lines, panels, isRow, colours) {
  const ratio = window.devicePixelRatio || 1;
  const [line, gap] = [24, 12].map((size) => size * ratio);
  const [wide, high] = ["width", "height"].map((side) => Math.max(...panels.map(({ canvas }) => canvas[side])));
  const [columns, rows] = isRow ? [panels.length, 1] : [1, panels.length];
  const top = gap + lines.length * line;
  const picture = document.createElement("canvas");
  picture.width = gap + columns * (wide + gap);
  picture.height = top + rows * (line + high + gap);
  const brush = picture.getContext("2d");
  brush.fillStyle = colours.surface;
  brush.fillRect(0, 0, picture.width, picture.height);
  const font = `${14 * ratio}px system-ui, sans-serif`;
  Object.assign(brush, { fillStyle: colours.ink, font, textBaseline: "middle" });
  lines.forEach((text, at) => brush.fillText(text, gap, gap + (at + 0.5) * line));
  panels.forEach(({ label, canvas }, at) => {
    const [x, y] = isRow ? [gap + at * (wide + gap), top] : [gap, top + at * (line + high + gap)];
    brush.fillText(label, x, y + line / 2);
    brush.drawImage(canvas, x, y + line);
  });
  picture.toBlob((blob) => saveBlob(name, blob), "image/png");
}
