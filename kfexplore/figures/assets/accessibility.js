// Accessibility fixes for Gradio's page: keyboard and screen reader.

const TAB_STEPS = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };

export function addAccessibility() {
  document.addEventListener("keydown", moveBetweenTabs);
  document.addEventListener("keydown", closeListOnTab);
  keepFocusWhenDisabled();
  addedNode(document.body);
}

function moveBetweenTabs(event) {
  const tab = event.target.closest("[role=tab]");
  if (!tab || !(event.key in TAB_STEPS) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const tabs = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]")];
  const next = tabs[Math.min(tabs.length - 1, Math.max(0, tabs.indexOf(tab) + TAB_STEPS[event.key]))];
  next.focus();
  next.click();
}

// Closes Gradio's list of choices when Tab leaves it, which Gradio does not do.
function closeListOnTab({ key, target }) {
  const close = new KeyboardEvent("keydown", { key: "Escape", bubbles: true });
  if (key === "Tab" && target.role === "combobox") target.dispatchEvent(close);
}

// Moves the focus from a button that becomes disabled (Generate, Stop) to its neighbour.
function keepFocusWhenDisabled() {
  let left = null;
  document.addEventListener("focusin", () => (left = null));
  new MutationObserver((records) => {
    for (const { type, target, addedNodes } of records) {
      if (type === "attributes") {
        if (target.disabled && target === document.activeElement) left = target.parentElement;
        left?.querySelector("button:enabled")?.focus();
      } else {
        for (const node of addedNodes) if (node.nodeType === Node.ELEMENT_NODE) addedNode(node);
      }
    }
  }).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["disabled"] });
}

// Names groups and reset buttons, and brings errors into view.
function addedNode(node) {
  const found = (selector) => [node, ...node.querySelectorAll(selector)].filter((each) => each.matches(selector));
  for (const each of found("fieldset.block, .reset-button")) {
    const label = each.closest(".block").querySelector("[data-testid=block-info]").textContent.trim();
    each.ariaLabel = each.matches("fieldset") ? label : `Reset ${label}`;
  }
  for (const alert of found("[role=alert]")) alert.scrollIntoView({ block: "nearest" });
}
