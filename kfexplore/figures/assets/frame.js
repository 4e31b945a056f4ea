// Gives the frame around a document the height of its content, and hides the still image that a notebook has below it.
export function fitFrame() {
  const frame = window.frameElement;
  const still = frame?.closest(".jp-OutputArea-child, .output_area")?.nextElementSibling;
  if (still?.querySelector("img")) still.hidden = true;
  new ResizeObserver(() => {
    if (frame) frame.style.height = `${document.documentElement.offsetHeight + 4}px`;
  }).observe(document.body);
}
