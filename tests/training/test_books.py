"""Books: fetched once each from a server of this machine, cut out of their licence, in plain ASCII."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kfexplore.errors import KfError
from kfexplore.training import books
from kfexplore.training.books import Book, fetch_books, manifest, plain

RAW = (
    "\ufeffThe Project Gutenberg eBook of Owls\r\n\r\nlicence of the head\r\n\r\n"
    "*** START OF THE PROJECT GUTENBERG EBOOK OWLS ***\r\n\r\n\r\n"
    "The “old”\r\n  owl’s _house_—\r\nvery old.\r\n \r\n\r\nA café…\r\n\r\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK OWLS ***\r\n\r\nlicence of the foot\r\n"
)
PLAIN = 'The "old" owl\'s house-- very old.\nA cafe...\n'
TWO = [Book(7, "Owls at Home"), Book(12345, "Rain")]


class Site:
    """What the server has, and what it was asked."""

    def __init__(self) -> None:
        self.pages = {f"/{book.id}/pg{book.id}.txt": RAW.encode() for book in TWO}
        self.asked: list[tuple[str, str]] = []
        self.url = ""


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.path, self.headers["User-Agent"]))
            page = made.pages.get(self.path)
            self.send_response(404 if page is None else 200)
            self.send_header("Content-Length", str(len(page or b"") + (page == b"cut")))
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_manifest_has_the_books_that_the_recipes_keep_back() -> None:
    found = manifest()
    assert len(found) == len({book.id for book in found}) == 46
    assert found[0].file == "00011-alice-s-adventures-in-wonderland.txt"
    assert {12, 289, 7439} <= {book.id for book in found}


def test_books_are_fetched_one_by_one_and_once(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(books.time, "sleep", pauses.append)
    assert fetch_books(tmp_path / "new", site.url + "/", books=TWO) == 2
    assert sorted(f.name for f in (tmp_path / "new").iterdir()) == ["00007-owls-at-home.txt", "12345-rain.txt"]
    assert (tmp_path / "new" / "12345-rain.txt").read_text() == PLAIN
    assert [path for path, _ in site.asked] == ["/7/pg7.txt", "/12345/pg12345.txt"]
    assert {agent for _, agent in site.asked} == {"kfexplore"}
    assert pauses == [books.PAUSE]
    assert fetch_books(tmp_path / "new", site.url, books=TWO) == 0
    assert len(site.asked) == 2


@pytest.mark.parametrize("trouble", ["missing", "cut", "gone"])
def test_a_book_that_cannot_be_fetched_is_named_and_the_others_are_kept(
    site: Site, tmp_path: Path, trouble: str
) -> None:
    url = site.url
    if trouble == "missing":
        del site.pages["/12345/pg12345.txt"]
    elif trouble == "cut":
        site.pages["/12345/pg12345.txt"] = b"cut"
    else:
        fetch_books(tmp_path, url, 0, TWO[:1])
        url = "http://127.0.0.1:1"
    with pytest.raises(KfError, match="Book 12345, Rain, cannot be fetched from") as caught:
        fetch_books(tmp_path, url, 0, TWO)
    assert "again" in caught.value.run
    assert [f.name for f in tmp_path.iterdir()] == ["00007-owls-at-home.txt"]


def test_a_page_that_is_no_book_is_refused(site: Site, tmp_path: Path) -> None:
    site.pages["/7/pg7.txt"] = b"<html>Please log in</html>"
    with pytest.raises(KfError, match=r"pg7\.txt is not a text from Project Gutenberg"):
        fetch_books(tmp_path, site.url, 0, TWO)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_an_error(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KfError, match="cannot be written"):
        fetch_books(tmp_path / "file", site.url, 0, TWO)


def test_only_the_book_is_left_a_paragraph_a_line() -> None:
    assert plain(RAW) == PLAIN
    assert plain("no marks") == ""
    assert plain(RAW.replace("*** START", "***START")) == PLAIN
