"""What Gradio's page lacks for those who use keys or a screen reader: runs once in the browser."""

from __future__ import annotations

from typing import Final

REACH: Final = """() => {
  const steps = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity};
  document.addEventListener("keydown", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (!tab || !(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const tabs = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]")];
    const next = tabs[Math.min(tabs.length - 1, Math.max(0, tabs.indexOf(tab) + steps[event.key]))];
    next.focus();
    next.click();
  });

  // Gradio's list of choices stays open when Tab leaves it.
  document.addEventListener("keydown", ({key, target}) => {
    const close = new KeyboardEvent("keydown", {key: "Escape", bubbles: true});
    if (key === "Tab" && target.role === "combobox") target.dispatchEvent(close);
  });

  // A button that is switched off under the reader's hand (Generate, Stop) leaves the focus to its neighbour.
  let left = null;
  document.addEventListener("focusin", () => (left = null));
  const handOn = (button) => {
    if (button.disabled && button === document.activeElement) left = button.parentElement;
    left?.querySelector("button:enabled")?.focus();
  };

  const arrived = (node) => {
    const found = (selector) => [node, ...node.querySelectorAll(selector)].filter((part) => part.matches(selector));
    for (const part of found("fieldset.block, .reset-button")) {
      const label = part.closest(".block").querySelector("[data-testid=block-info]").textContent.trim();
      part.ariaLabel = part.matches("fieldset") ? label : `Reset ${label}`;
    }
    for (const alert of found("[role=alert]")) alert.scrollIntoView({block: "nearest"});
  };

  new MutationObserver((records) => {
    for (const {type, target, addedNodes} of records) {
      if (type === "attributes") handOn(target);
      else for (const node of addedNodes) if (node.nodeType === Node.ELEMENT_NODE) arrived(node);
    }
  }).observe(document.body, {childList: true, subtree: true, attributes: true, attributeFilter: ["disabled"]});
  arrived(document.body);
}"""
"""Arrow keys for tabs, no list left open, no lost focus, names that say of what, and mistakes brought into sight."""
