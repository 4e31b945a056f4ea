"""Takes the pictures of the app for README and tour again: `python docs/screenshots.py [NAME ...]`.

Serves the page with the bundled pair, drives a headless Chromium as the tour does, and writes docs/images/.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from kfexplore.ui.app import launch
from kfexplore.ui.theme import PICTURE

FOLDER = Path(__file__).parent / "images"
WIDTH = 1180
"""Pixels."""
COLOURS = 256
"""The commonest of a picture: the page has few, and a picture of a third of the size looks the same."""
BELOW = 16
"""Pixels that are shown under the last part."""
STILL = 500
"""Milliseconds without a change after which the page is drawn."""
LONGEST = 180_000
"""Milliseconds that a part of the page may take."""
FRAMES, HELD = 20, 5
"""Of the animation: while the noise moves, and at rest."""


def scrub(page: Page) -> str:
    """The first screen; returns the selector of the last part shown."""
    page.locator("[data-tables=ready]").wait_for()
    return "#scrub"


def generate(page: Page) -> str:
    """Four decoders on one prompt."""
    page.get_by_role("tab", name="Generate").click()
    for name in ("MDLM", "Verified"):
        page.locator("#generate-decoders").get_by_label(name).check()
    page.locator("#generate-advanced button").first.click()
    page.get_by_label("Underline tokens the teacher finds unlikely").check()
    page.locator("#generate-go").click()
    expect(page.locator("#generate-texts [data-stage=done]")).to_have_count(4)
    expect(page.locator("#generate-save")).to_be_enabled()
    return "#generate-texts"


def joint(page: Page) -> str:
    """The distribution after the first prompt."""
    page.get_by_role("tab", name="Joint vs marginal").click()
    expect(page.locator("#joint-samplers table")).to_contain_text("teacher")
    expect(page.locator("#joint-counts .bars")).not_to_have_count(0)
    return "#joint-counts"


def toys(page: Page) -> str:
    """The distribution that meets the theorem's condition."""
    page.get_by_role("tab", name="Joint vs marginal").click()
    page.get_by_role("tab", name="Toy distributions").click()
    page.get_by_text("Noisy XOR", exact=True).click()
    expect(page.locator("#toy-meaning")).to_contain_text("as literally stated fails here")
    return "#toy-meaning"


def timing(page: Page) -> str:
    """A race of AR and the student."""
    page.get_by_role("tab", name="Timing").click()
    expect(page.locator("#timing-status")).to_contain_text("Done: 2 of 2")  # the tab's own first race
    for batch in ("4", "16"):
        page.locator("#timing-batches").get_by_label(batch, exact=True).check()
    page.locator("#timing-go").click()
    expect(page.locator("#timing-status")).to_contain_text(re.compile(r"Done: 6 of 6"))
    expect(page.locator("#timing-gain .main-svg").first).to_be_visible()
    return "#timing-speedup"


def taken(scene: Callable[[Page], str], page: Page) -> bytes:
    """The page from its top to the end of a scene, once it no longer changes, as a PNG of few colours."""
    last = scene(page)
    page.mouse.move(0, 0)
    before = b""
    while (now := _shot(page, last)) != before:
        before = now
        page.wait_for_timeout(STILL)
    return _smaller(now)


def preview(page: Page) -> bytes:
    """The picture that a shared link shows: the first screen, in the size that readers of links want."""
    page.set_viewport_size({"width": 1200, "height": 630})
    scrub(page)
    return _smaller(page.screenshot())


def play(page: Page) -> bytes:
    """The sentence and the first tracks while the noise of slot 3 goes from 0 to 1 and back, as an animated WebP."""
    scrub(page)
    slider = page.locator("#scrub .kfs-range").nth(2)
    rest = float(slider.input_value())
    top = page.locator("#scrub .kfs-sentence").bounding_box()
    last = page.locator("#scrub .kfs-rows > :nth-child(3)").bounding_box()
    assert top is not None
    assert last is not None
    clip = {"x": top["x"], "y": top["y"], "width": top["width"], "height": last["y"] + last["height"] - top["y"]}
    frames = []
    for u in [*(n / FRAMES for n in range(FRAMES)), *[rest] * HELD]:
        slider.evaluate("(range, u) => { range.value = u; range.dispatchEvent(new Event('input')); }", u)
        page.wait_for_timeout(50)
        frames.append(Image.open(io.BytesIO(page.screenshot(clip=clip))))
    written = io.BytesIO()
    frames[0].save(written, "WEBP", save_all=True, append_images=frames[1:], duration=200, loop=0, quality=25, method=6)
    return written.getvalue()


SCENES = (scrub, generate, joint, toys, timing)
PICTURES: dict[str, tuple[Path, Callable[[Page], bytes]]] = {
    **{scene.__name__: (FOLDER / f"{scene.__name__}.png", partial(taken, scene)) for scene in SCENES},
    "preview": (PICTURE, preview),
    "play": (FOLDER / "play.webp", play),
}


def main() -> None:
    """Takes all pictures, or the named ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PICTURES))
    names = parser.parse_args().names or list(PICTURES)
    if unknown := set(names) - PICTURES.keys():
        parser.error(f"there is no picture {min(unknown)}; valid: {', '.join(PICTURES)}")
    expect.set_options(timeout=LONGEST)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    system = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    demo = launch(port=port, prevent_thread_lock=True, quiet=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=system, args=["--no-sandbox", "--disable-gpu"])
            for name in names:
                page = browser.new_page(viewport={"width": WIDTH, "height": 1000}, color_scheme="light")
                page.set_default_timeout(LONGEST)
                page.goto(f"http://127.0.0.1:{port}/")
                file, take = PICTURES[name]
                file.write_bytes(picture := take(page))
                print(f"{file.name}: {len(picture):,} bytes")
                page.close()
    finally:
        demo.close()


def _shot(page: Page, last: str) -> bytes:
    box = page.locator(last).bounding_box()
    assert box is not None
    height = box["y"] + box["height"] + BELOW
    return page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": height})


def _smaller(picture: bytes) -> bytes:
    """The picture in its commonest colours, unchanged; every other colour becomes the nearest of them."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), dtype=np.int64)
    codes, places, counts = np.unique(pixels @ [1 << 16, 1 << 8, 1], return_inverse=True, return_counts=True)
    colours = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)
    common = colours[np.argsort(-counts, kind="stable")[:COLOURS]]
    nearest = ((colours[:, None] - common) ** 2).sum(axis=2).argmin(axis=1)
    image, kept = Image.fromarray(nearest[places].reshape(pixels.shape[:2]).astype(np.uint8), "P"), io.BytesIO()
    image.putpalette(common.astype(np.uint8).tobytes())
    image.save(kept, "PNG", optimize=True)
    return kept.getvalue()


if __name__ == "__main__":
    main()
