// Two gr.HTML components that draw their value themselves: faster than Gradio's own way, which replaces every node.

export function mountTexts(element, props, watch) {
  const place = element.querySelector(".kft-page");
  follow(props, watch, (html) => (place.innerHTML = html));
  place.onclick = (event) => {
    if (event.target.closest(".kft-again")) return playAgain(event.target.closest(".kft-race"));
    const block = event.target.closest(".kft-block");
    if (!block || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    openInScrub(block.href);
  };
  place.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const blocks = [...(event.target.closest(".kft-line")?.querySelectorAll(".kft-block") ?? [])];
    const next = blocks[blocks.indexOf(event.target) + step];
    if (!step || !next) return;
    event.preventDefault();
    for (const block of blocks) block.tabIndex = block === next ? 0 : -1;
    next.focus();
  };
}

function playAgain(race) {
  race.classList.remove("kft-go");
  void race.offsetWidth; // forces a layout, so that the animation restarts
  race.classList.add("kft-go");
}

// Opens a link without loading a page: the widget follows the address, as after the browser's Back.
function openInScrub(link) {
  history.pushState(null, "", link);
  window.dispatchEvent(new PopStateEvent("popstate"));
  document.querySelector('[role="tab"][data-tab-id="scrub"]').click();
}

// A Plotly figure that is updated in place; the value is its JSON. Texts come first: after the next paint, Plotly is
// loaded from `source`, which blocks the page for up to a second, and each figure is drawn in a task of its own.
export function mountPlot(element, props, watch, source) {
  const place = element.querySelector(".kf-plot");
  follow(props, watch, async (json) => {
    const figure = JSON.parse(json || "{}");
    if (!figure.data || (!figure.data.length && !place.data)) return; // nothing to draw, and nothing to clear
    await painted();
    await loadPlotly(source);
    await painted();
    if (json === props.value && place.isConnected) draw(place, figure);
  });
}

function painted() {
  return new Promise((resume) => requestAnimationFrame(() => setTimeout(resume)));
}

function draw(place, { data, layout }) {
  const name = layout.meta?.name;
  const filename = `kfexplore-${fileName(name ?? "figure")}`;
  const buttons = { displaylogo: false, modeBarButtons: [["toImage"]], toImageButtonOptions: { filename, scale: 2 } };
  const options = { responsive: true, ...buttons };
  withoutBase(() => window.Plotly.react(place, data, layout, options));
  const [picture, ...others] = place.querySelectorAll(".main-svg"); // the camera button is beside them
  Object.assign(picture, { ariaLabel: name ?? null, role: name ? "img" : null });
  for (const other of others) other.ariaHidden = "true";
}

// Adds Plotly's script to the page once; after a failure, the next figure tries again.
function loadPlotly(source) {
  const failed = (error) => {
    window.kfPlotly = null;
    throw error;
  };
  window.kfPlotly ??= new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { onload: resolve, onerror: reject, src: source });
    document.head.append(script);
  }).catch(failed);
  return window.kfPlotly;
}

// The first words of a figure's finding.
export function fileName(words) {
  return words.toLowerCase().split(/[^a-z0-9]+/).filter(Boolean).slice(0, 8).join("-");
}

function follow(props, watch, show) {
  const draw = () => show(props.value ?? "");
  watch("value", draw);
  draw();
}

// On a page with a base element, such as Gradio's, Plotly refers to patterns and clips by the page's full address:
// they would vanish when the address changes.
function withoutBase(work) {
  const base = document.querySelector("base[href]");
  const href = base?.getAttribute("href");
  base?.removeAttribute("href");
  try {
    work();
  } finally {
    base?.setAttribute("href", href);
  }
}
