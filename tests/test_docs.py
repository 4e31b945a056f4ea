"""What the documents name is there: files, commands, options, names, labels of the page, links, pictures, outputs."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
import yaml
from documents import (
    EXTENDING,
    FENCE,
    NAME,
    PATH,
    ROOT,
    anchors,
    bold,
    example,
    fenced,
    lines,
    links,
    missing_path,
    prose,
    quoted,
    read,
    trouble,
    unknown_name,
)
from helpers import CAUSAL, save_causal, student, teacher
from PIL import Image
from shell import Shell
from test_readme import KNOWN, MEASURED

import kfexplore
from analysis import images
from docs.measured import MARKED
from docs.wording import found
from kfexplore.checkpoints import families
from kfexplore.checkpoints.registry import bundled_folder, bundled_pairs
from kfexplore.config import from_dict
from kfexplore.pair import Pair
from kfexplore.results import Block, Learned
from kfexplore.training import stories
from kfexplore.training.config import Recipe
from kfexplore.ui.service import local_service

TOUR, FIGURES, API, LOG = (ROOT / "docs" / f"{name}.md" for name in ("TOUR", "FIGURES", "API", "LOG"))
MORE = [
    ROOT / "docs" / f"{name}.md"
    for name in ("README", "METHOD", "COMMANDS", "TRAINING", "YOUR_MODEL", "SERVING", "SECURITY")
]
OTHERS = [ROOT / f"{name}.md" for name in ("CONTRIBUTING", "LICENSES", "CHANGELOG", "README")]
DOCUMENTS = [TOUR, FIGURES, EXTENDING, API, *MORE, *OTHERS]
LINKED = [*DOCUMENTS, LOG, *(bundled_folder(pair) / "MODEL_CARD.md" for pair in bundled_pairs())]
WITHOUT_NUMBERS = [TOUR, FIGURES, EXTENDING, *OTHERS[:2]]
PLAIN = KNOWN | {"95 %", "100 %", "2.0", "1.0"}
"""What is no measurement: noise, versions, levels of intervals and scales, numbers of licences."""
LONGEST_EXAMPLE = 30
"""Lines of code of one way to extend."""
WIDTHS = (1180, round(images.WIDTH * images.SCALE))
"""Pixels of the pictures of the app, and of those that a study writes."""
HEAVIEST = {"PNG": 200_000, "WEBP": 300_000}
"""Largest pictures and animations, in bytes."""
each = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
each_and_log = pytest.mark.parametrize("path", [*DOCUMENTS, LOG], ids=lambda path: path.stem)


@each_and_log
def test_commands_and_their_options_are_there(path: Path) -> None:
    assert [(line, why) for line in lines(path) if (why := trouble(line))] == []


@each_and_log
def test_files_are_there(path: Path) -> None:
    assert [text for text in quoted(path) if PATH.fullmatch(text) and missing_path(text)] == []


@each
def test_names_of_the_code_are_there(path: Path) -> None:
    named = [text for text in quoted(path) if NAME.fullmatch(text) and not PATH.fullmatch(text)]
    assert [text for text in named if unknown_name(text)] == []


@pytest.mark.parametrize("path", LINKED, ids=lambda path: path.stem)
def test_links_resolve(path: Path) -> None:
    broken = []
    for target in links(path):
        file, _, anchor = target.partition("#")
        to = path.parent / file if file else path
        if not target.startswith("http") and (not to.exists() or (anchor and anchor not in anchors(to))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize(
    "line",
    [
        "kfexplore scrub",
        "kfexplore train pears --recipe tales-cpu",
        "kfexplore map --nose 0.1",
        "python -m analysis.nothing",
        "python -m analysis.quality --paar tales",
        "python -m kfexplore scrub",
        "python docs/nothing.py",
        "KFEXPLORE_PAIR=owt torchrun --nproc_per_node 2 -m kfexplore trian",
        "make coffee",
    ],
)
def test_a_command_that_is_not_there_is_seen(line: str) -> None:
    assert trouble(line)


@pytest.mark.parametrize("line", ["", "it's", "git log", "python your.py --loud", "kfexplore VERB --loud"])
def test_what_is_no_command_of_ours_is_let_be(line: str) -> None:
    assert not trouble(line)


def test_a_file_or_name_that_is_not_there_is_seen() -> None:
    assert missing_path("kfexplore/maps/nothing.py")
    assert not missing_path("kfexplore/figures/")
    assert all(map(unknown_name, ("nothing_of_ours", "kfexplore.figures.page.nothing", "laws.nothing_figure")))
    assert not any(map(unknown_name, ("margins", "kfexplore.figures.page.bare", "laws.joint_figure")))


def test_labels_of_the_page_in_the_tour_are_on_the_page() -> None:
    sources = [path for room in ("ui", "figures", "laws") for path in (ROOT / "kfexplore" / room).rglob("*.*")]
    page = "\n".join(read(path) for path in sources if path.suffix in {".py", ".html", ".js"})
    assert len(bold(TOUR)) > 10
    assert [label for label in bold(TOUR) if label not in page] == []


def test_every_figure_is_explained() -> None:
    drawn = {
        f"{prefix}{path.stem}.{node.name}"
        for prefix, pattern in (("", "kfexplore/figures/*.py"), ("analysis.", "analysis/*_figures.py"))
        for path in ROOT.glob(pattern)
        for node in ast.parse(read(path)).body
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_figure")
    }
    assert drawn - set(quoted(FIGURES)) == set()


@pytest.mark.parametrize("path", WITHOUT_NUMBERS, ids=lambda path: path.stem)
def test_no_measured_number_is_without_a_marker(path: Path) -> None:
    assert [number for number in MEASURED.findall(MARKED.sub("", prose(path))) if number not in PLAIN] == []


@pytest.mark.parametrize("text", [text for path in DOCUMENTS for text in fenced(path, "console")])
def test_outputs_are_what_the_commands_print(text: str, shell: Shell) -> None:
    command, shown = text.removeprefix("$ kfexplore ").split("\n", 1)
    code, out, err = shell.run(command)
    assert code == 0, err
    for told, printed in zip(shown.split(), out.split(), strict=True):
        assert told == printed or float(told) == pytest.approx(float(printed), abs=0.002)


def test_a_phrase_is_found_across_lines_comments_and_strings() -> None:
    text = 'It hangs\n    # on noise. "one token a "\n    f"pass", a token at a time; he told it that there is no list.'
    assert [(line, words) for line, words, _ in found(text)] == [(1, "hangs # on"), (2, 'token a " f"pass')]


@each
def test_python_compiles(path: Path) -> None:
    for text in fenced(path, "python"):
        compile(text, str(path), "exec")


def test_each_way_to_extend_is_short() -> None:
    for section in read(EXTENDING).split("\n## ")[1:]:
        code = [line for _, text in FENCE.findall(section) for line in text.splitlines() if line.strip()]
        assert len(code) <= LONGEST_EXAMPLE, section.splitlines()[0]


def test_the_recipe_is_one() -> None:
    text, _ = fenced(EXTENDING, "yaml")
    recipe = from_dict(Recipe, {"name": "mine", **yaml.safe_load(text)})
    assert list(recipe.stages()) == ["teacher", "student1", "student2"]


def test_the_plot_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plot = fenced(EXTENDING, "yaml")
    grammar = tmp_path / "stories.yaml"
    grammar.write_text(read(stories.GRAMMAR) + plot, encoding="utf-8")
    monkeypatch.setattr(stories, "GRAMMAR", grammar)
    monkeypatch.setattr(stories, "grammar", functools.cache(stories.grammar.__wrapped__))
    assert any("snowman" in story.text for story in stories.stories(600, seed=0))


def test_the_family_is_that_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    found = example("One more family")["exact_tokens"]
    theirs = save_causal(tmp_path, "olmo2", **CAUSAL["llama"], vocab_size=24)
    noise, row = [0.2, 0.7, 0.9, 0.4], [3, 1, 4]
    for value in noise:
        law = theirs(torch.tensor([row])).logits[0, -1].double().softmax(dim=-1).numpy()
        row.append(int(np.searchsorted(law.cumsum(), value)))
    assert found(str(tmp_path), row[:3], noise) == row[3:]


def test_the_figure_is_drawn() -> None:
    values = np.arange(6.0).reshape(3, 2)
    figure = example("The figure")["margins_figure"](Block(values, values, values, Learned(values, values)))
    assert len(figure.data) == 2
    assert "2.0 in slot 1 and 3.0 in slot 2" in figure.layout.title.text


def test_the_tab_is_built_and_answers() -> None:
    service = local_service({"bare": lambda: Pair(teacher(), student())})
    with gr.Blocks() as demo, gr.Tabs(), gr.Tab("Tokens") as tab:
        example("The tab")["build_tokens_tab"](service, [gr.Textbox("bare"), gr.Textbox("a")], tab)
    (event,) = demo.fns.values()
    assert event.fn is not None
    assert "tokenizer" in event.fn("bare", "a")  # without one there are no words


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "images").iterdir()), ids=lambda path: path.name)
def test_a_picture_is_small_and_shown(path: Path) -> None:
    with Image.open(path) as image:
        assert image.width in WIDTHS if image.format == "PNG" else image.width <= max(WIDTHS)
        assert path.stat().st_size <= HEAVIEST[str(image.format)]
    assert any(f"images/{path.name}" in read(document) for document in DOCUMENTS)


def test_the_version_is_one() -> None:
    newest, released = re.findall(r"^## \[(\d.*)\] - (.*)$", read(ROOT / "CHANGELOG.md"), re.MULTILINE)[0]
    cited = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert kfexplore.__version__ == newest == cited["version"]
    assert released == str(cited["date-released"])


def test_the_citation_has_what_the_format_needs() -> None:
    cited = yaml.safe_load(read(ROOT / "CITATION.cff"))
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cited)
    assert all({"type", "title", "authors"} <= set(reference) for reference in cited["references"])


def test_every_requirement_has_its_licence() -> None:
    required = re.findall(r"^([\w-]+)==", read(ROOT / "requirements.txt"), re.MULTILINE)
    table = [line for line in read(ROOT / "LICENSES.md").splitlines() if line.startswith("|")]
    assert [name for name in required if not any(re.search(rf"\b{name}\b", line) for line in table)] == []
