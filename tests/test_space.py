"""What `kfexplore export space` writes is a whole Space: it starts where nothing but its requirements is installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import sysconfig
import threading
import urllib.request
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import distilled
from shell import Shell

import kfexplore
from kfexplore.checkpoints.registry import bundled_pairs
from kfexplore.figures.hints import READING
from kfexplore.space import PYTHON, TORCH, write_space
from kfexplore.ui.server import DEFAULT_PORT

REPOSITORY = Path(__file__).resolve().parents[1]
DOCKER = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
NAMES = ["LICENSE", "README.md", "app.py", "checkpoints", "docs", "kfexplore", "requirements.txt"]
FULL = pytest.mark.full("kfexplore/space.py", "kfexplore/ui", "app.py", "requirements.lock", "Dockerfile")
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "space"
    write_space(folder)
    return folder


def pins(file: Path) -> dict[str, str]:
    """Versions by package; any other line than package==version, perhaps with a marker, fails."""
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; [^;\\]+)?", line)] == []
    return dict(line.split(" ;")[0].split("==") for line in lines)


# What is written.


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="git tells which files are the repository's")
def test_the_files_are_those_of_the_repository_and_no_others(space: Path) -> None:
    assert sorted(file.name for file in space.iterdir()) == NAMES
    known = ["app.py", "LICENSE", "docs/FIGURES.md", "kfexplore", *(f"checkpoints/{pair}" for pair in bundled_pairs())]
    assert "checkpoints/tales" in known
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *known],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()}
    found = {str(file.relative_to(space)) for file in space.rglob("*") if file.is_file()}
    assert found - {"README.md", "requirements.txt"} == expected
    assert all((space / name).read_bytes() == (REPOSITORY / name).read_bytes() for name in expected)


def test_what_python_compiled_and_hidden_files_stay_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kfexplore.space.PACKAGE", tmp_path / "kfexplore")
    for name in (
        "kfexplore/a.py",
        "kfexplore/__pycache__/a.cpython-312.pyc",
        "kfexplore/.a.py.swp",
        "app.py",
        "LICENSE",
        "docs/FIGURES.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "requirements.lock").write_text("gradio==6.0.0\n")
    write_space(tmp_path / "space")
    assert [file.name for file in (tmp_path / "space" / "kfexplore").iterdir()] == ["a.py"]


def test_requirements_are_what_is_locked_and_another_torch(space: Path) -> None:
    ours, theirs = pins(REPOSITORY / "requirements.txt"), pins(space / "requirements.txt")
    assert ours["torch"] != TORCH
    assert {name: theirs[name] for name in ours} == {**ours, "torch": TORCH}
    lock = (REPOSITORY / "requirements.lock").read_text()
    assert all(f"\n{name}=={version} " in lock for name, version in theirs.items() if name != "torch")
    assert len(theirs) > 2 * len(ours)
    assert "--hash" not in (space / "requirements.txt").read_text()


def test_the_header_is_what_the_hub_takes(space: Path) -> None:
    _, header, text = (space / "README.md").read_text().split("---\n", 2)
    told: dict[str, Any] = yaml.safe_load(header)
    assert (told["sdk"], told["app_file"]) == ("gradio", "app.py")
    assert told["sdk_version"] == pins(space / "requirements.txt")["gradio"]
    assert told["python_version"] == PYTHON
    assert len(told["short_description"]) <= 60
    assert {told["colorFrom"], told["colorTo"]} <= COLOURS
    assert text.startswith("\n# kfexplore\n")


def pushed(out: str) -> list[list[str]]:
    """The commands that the output tells to run."""
    return [shlex.split(line) for line in out.splitlines() if line.startswith("  hf ")]


def test_the_command_says_what_it_wrote_and_how_to_push_it(shell: Shell, tmp_path: Path) -> None:
    code, out, err = shell.run(f"export space {tmp_path}/new/space")
    assert (code, err) == (0, "")
    size = sum(file.stat().st_size for file in (tmp_path / "new" / "space").rglob("*") if file.is_file())
    assert f"{size / 1e3:,.0f} kB" in out
    assert [words[1:3] for words in pushed(out)] == [["repos", "create"], ["upload", "OWNER/kfexplore"]]


@FULL
def test_the_commands_that_push_are_those_of_the_hub(shell: Shell, tmp_path: Path) -> None:
    for words in pushed(
        shell.run(f"export space {tmp_path}/space")[1]
    ):  # a word that `hf` does not know would end it before it asks for the hub
        words[0] = str(Path(sys.executable).with_name("hf"))
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        ended = subprocess.run(words, env=offline, capture_output=True, text=True, timeout=60, check=False)
        assert "offline mode is enabled" in ended.stdout + ended.stderr


# Where it is written.


def test_an_earlier_export_is_replaced_and_its_git_folder_stays(shell: Shell, tmp_path: Path) -> None:
    write_space(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / "kfexplore" / "gone.py").write_text("")
    (tmp_path / "app.py").write_text("")
    assert shell.run(f"export space {tmp_path}")[0] == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [".git", *NAMES]
    assert not (tmp_path / "kfexplore" / "gone.py").exists()
    assert (tmp_path / "app.py").read_bytes() == (REPOSITORY / "app.py").read_bytes()


def test_a_folder_of_something_else_is_refused_and_left_alone(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine")
    assert "is not empty: it has README.md" in shell.refused(f"export space {tmp_path}")
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
    assert "README.md" in shell.refused(f"export space {tmp_path}/README.md")


def test_outside_a_working_copy_the_missing_parts_are_named(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kfexplore.space.PACKAGE", tmp_path / "site-packages" / "kfexplore")
    assert "app.py, LICENSE, docs/FIGURES.md, requirements.lock" in shell.refused(f"export space {tmp_path}/space")


# It starts.


@pytest.fixture(scope="module")
def distilled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distilled")
    distilled(folder / "model").save_pretrained(folder / "pair")
    return folder / "pair"


@pytest.fixture(scope="module")
def url(space: Path, distilled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app, started in the folder as a Space starts it: no editable install, no home, no way out.

    It opens with a pair of transformers models.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    nowhere = "http://127.0.0.1:9"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path_factory.mktemp("home")),
        "PYTHONPATH": sysconfig.get_path(
            "purelib"
        ),  # under -S its .pth files, the editable install's too, are not read
        "PYTHONUNBUFFERED": "1",
        "GRADIO_SERVER_PORT": str(port),
        "KFEXPLORE_PAIR": str(distilled_folder),
        "OMP_WAIT_POLICY": "PASSIVE",
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), nowhere),
        "NO_PROXY": "127.0.0.1,localhost",
    }
    app = subprocess.Popen(
        [sys.executable, "-S", "app.py"],
        cwd=space,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watchdog = threading.Timer(120, app.kill)
    watchdog.start()
    assert app.stdout is not None
    told = []
    for line in app.stdout:
        told.append(line)
        if "Running on local URL" in line:
            break
    else:
        pytest.fail("".join(told))
    watchdog.cancel()
    yield f"http://127.0.0.1:{port}"
    app.terminate()
    app.communicate(timeout=30)


def ask(url: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as reply:
        return reply.read().decode()


@FULL
def test_the_app_starts_from_the_folder_alone_and_answers(space: Path, url: str, distilled_folder: Path) -> None:
    assert '"title":"kfexplore"' in ask(url)
    assert "**The numbers below a slot**" in ask(f"{url}/{READING}")
    config = json.loads(ask(f"{url}/config"))
    (scrub,) = [part for part in config["components"] if part["props"].get("elem_id") == "scrub"]
    for name, prompt in (("tales", "Once upon a time"), (str(distilled_folder), "a b c")):
        pair = kfexplore.load_pair(name)
        ids, _ = pair.encode(prompt)
        noise = [0.1, 0.7, 0.3, 0.9]
        question = {"seq": 7, "pair": name, "prompt": prompt, "u": noise}
        body = {"data": question, "component_id": scrub["id"], "fn_name": "point", "session_hash": "a"}
        answer = json.loads(ask(f"{url}/gradio_api/component_server", body))
        block = pair.block([ids], [noise])
        assert (answer["ok"], answer["seq"]) == (True, 7)
        assert (answer["teacher"], answer["student"]) == (block.teacher[0].tolist(), block.student[0].tolist())
    compiled = {file.name.split(".")[0] for file in (space / "kfexplore").rglob("*.pyc")}
    assert {"pair", "service", "registry"} <= compiled  # it was the folder's own package that ran


# In a container.


def directives(name: str) -> list[str]:
    """What stands after each such word in the Dockerfile."""
    whole = DOCKER.replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in whole.splitlines() if line.startswith(f"{name} ")]


def test_the_dockerfile_copies_what_is_there_and_the_ignore_file_lets_through() -> None:
    copied = {source for line in directives("COPY") for source in line.split()[:-1]}
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored
    assert all((REPOSITORY / source).exists() for source in copied)
    locks = {"requirements.lock", "requirements-torch.lock"}
    assert copied == {"app.py", "LICENSE", "requirements.txt", *locks, "docs/FIGURES.md", "kfexplore", "checkpoints"}


def test_the_container_listens_where_it_says_and_not_as_root() -> None:
    app = (REPOSITORY / "app.py").read_text()
    assert directives("CMD") == ['["python", "app.py"]']
    assert directives("ENV") == ["GRADIO_SERVER_NAME=0.0.0.0"]
    assert '"GRADIO_SERVER_NAME"' in app
    assert directives("EXPOSE") == [str(DEFAULT_PORT)]
    assert f"useradd --create-home --uid 1000 {directives('USER')[0]}" in DOCKER
    assert re.fullmatch(rf"python:{PYTHON}-slim@sha256:[0-9a-f]{{64}}", *directives("FROM"))


def test_the_health_check_tells_a_running_app_from_none() -> None:
    _, _, command = shlex.split(directives("HEALTHCHECK")[0].split("CMD ")[1])
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for port, healthy in ((server.server_port, True), (9, False)):
            check = command.replace("http://127.0.0.1:7860", f"http://127.0.0.1:{port}")
            assert check != command
            ended = subprocess.run([sys.executable, "-c", check], capture_output=True, timeout=60, check=False)
            assert (ended.returncode == 0) == healthy
        server.shutdown()
