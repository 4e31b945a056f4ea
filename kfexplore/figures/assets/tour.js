// The head of the page: Copy link, and the tour. A step of the tour has a link and an element to point at; the markup
// is in kfexplore/ui/tour.py.

const SEEN = "kfexplore-seen"; // key in the browser's storage, set at the first visit
const PATIENCE = 60000; // milliseconds within which a step's element must appear in its tab
const GAP = 12; // pixels around the element
const NARROW = 600;

// For gr.HTML's js_on_load. trigger: "copy" copies a link, "submit" makes the page follow the address.
// steps: [{title, text, link: {key: value}, at: selector}].
export function mountHead(element, trigger, steps) {
  const part = (name) => element.querySelector(`.kf-${name}`);
  part("copy").onclick = () => trigger("copy");
  const tour = new Tour(part, steps, () => trigger("submit"));
  part("start").hidden = !steps.length;
  part("start").onclick = () => tour.show(0);
  if (steps.length && isFirstVisit()) part("start").classList.add("kf-offered");
  const named = Number(new URLSearchParams(location.search).get("tour"));
  if (steps[named - 1]) window.addEventListener("kf-read", () => tour.show(named - 1, false), { once: true });
}

function isFirstVisit() {
  try {
    const isFirst = !localStorage.getItem(SEEN);
    localStorage.setItem(SEEN, "yes");
    return isFirst;
  } catch {
    return false; // the browser does not allow storage
  }
}

class Tour {
  constructor(part, steps, follow) {
    this.part = part;
    this.steps = steps;
    this.follow = follow;
    part("next").onclick = () => (this.at + 1 < steps.length ? this.show(this.at + 1) : this.end());
    part("back").onclick = () => this.show(this.at - 1);
    part("skip").onclick = () => this.end();
    document.addEventListener("keydown", (event) => this.onKey(event));
    this.sizes = new ResizeObserver(() => this.keepInSight());
    for (const act of ["wheel", "touchmove", "pointerdown", "keydown"]) {
      document.addEventListener(act, () => this.sizes.disconnect(), { capture: true, passive: true });
    }
  }

  // Escape first closes whatever is open above the page.
  onKey({ key, target }) {
    const isTaken = target.role === "combobox" || document.querySelector(":popover-open");
    if (key === "Escape" && !this.part("tour").hidden && !isTaken) this.end();
  }

  show(at, takesFocus = true) {
    const { part, steps } = this;
    const { title, text, link, at: place } = steps[at];
    const isBegun = !part("tour").hidden;
    this.at = at;
    part("tour").hidden = false;
    part("start").classList.remove("kf-offered");
    part("count").textContent = `Step ${at + 1} of ${steps.length}`;
    part("title").textContent = title;
    part("text").textContent = text;
    part("back").disabled = at === 0;
    part("next").textContent = at + 1 < steps.length ? "Next" : "Done";
    part("skip").hidden = at + 1 === steps.length;
    if (takesFocus && !isBegun) part("next").focus();
    this.open({ ...link, tour: at + 1 });
    this.point(place);
  }

  open(link) {
    const query = new URLSearchParams(location.search);
    for (const key of ["tab", "temperature"]) query.delete(key);
    for (const [key, value] of Object.entries(link)) query.set(key, value);
    window.kfScrub.hold();
    history.replaceState(history.state, "", `?${query}`);
    if ("u" in link) window.kfScrub.openLink();
    this.follow();
  }

  // Marks the element once it appears in its tab, and keeps it in view until the reader acts.
  point(selector) {
    this.forget();
    const until = performance.now() + PATIENCE;
    const look = () => {
      const found = [...document.querySelectorAll(selector)].find((each) => each.offsetParent);
      if (found) {
        found.dataset.kfTour = "here";
        this.sizes.observe(document.querySelector(".gradio-container"));
      } else if (performance.now() < until) this.timer = setTimeout(look, 100);
    };
    look();
  }

  forget() {
    clearTimeout(this.timer);
    this.sizes.disconnect();
    document.querySelector("[data-kf-tour]")?.removeAttribute("data-kf-tour");
  }

  // Scrolls the element between the sticky part and the card, or only its top if it does not fit. On a narrow page it
  // goes to the top, so that the content after it is above the card as well.
  keepInSight() {
    const found = document.querySelector("[data-kf-tour]");
    if (!found) return this.point(this.steps[this.at].at); // its tab was redrawn
    const card = this.part("tour").getBoundingClientRect();
    const stuck = [...document.querySelectorAll(".kfs-shown, .kfs-sentence")].find((each) =>
      each.offsetHeight && getComputedStyle(each).position === "sticky" && !each.contains(found));
    const above = (stuck?.offsetParent ? stuck.offsetHeight : 0) + GAP;
    const below = innerHeight - card.top + GAP;
    const { style } = document.documentElement;
    style.setProperty("--kf-above", `${above}px`);
    style.setProperty("--kf-below", `${below}px`);
    const isTall = innerWidth <= NARROW || found.offsetHeight > innerHeight - above - below;
    const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    return found.scrollIntoView({ block: isTall ? "start" : "nearest", behavior: isCalm ? "auto" : "smooth" });
  }

  end() {
    const { part } = this;
    this.forget();
    part("tour").hidden = true;
    part("start").focus();
    const query = new URLSearchParams(location.search);
    query.delete("tour");
    history.replaceState(history.state, "", `?${query}`);
  }
}
