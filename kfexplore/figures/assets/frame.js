// Gives the frame around a document the height of its content.
export function fitFrame() {
  new ResizeObserver(() => {
    if (window.frameElement) window.frameElement.style.height = `${document.documentElement.offsetHeight + 4}px`;
  }).observe(document.body);
}
