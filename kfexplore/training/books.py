"""Fetches the books of books.json from Project Gutenberg: the training texts of the pair tales."""

from __future__ import annotations

import http.client
import json
import re
import time
import unicodedata
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from kfexplore.checkpoints.files import write_whole
from kfexplore.config import from_dict
from kfexplore.errors import KfError, writing

MANIFEST = Path(__file__).with_name("books.json")
GUTENBERG = "https://www.gutenberg.org/cache/epub"
PAUSE = 2.0
"""Seconds between two books, as the site requests of robots."""
TIMEOUT = 60.0
"""Seconds to wait for a response."""
MARKED = re.compile(r"^\*\*\* ?START OF [^\n]*\n(.*?)^\*\*\* ?END OF ", re.DOTALL | re.MULTILINE)
"""Matches the book between the lines that separate it from the licence."""
ASCII = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),
        **dict.fromkeys("\u2014\u2015", "--"),
        "\u2026": "...",
        "\u00e6": "ae",
        "\u00c6": "Ae",
        "\u0153": "oe",
        "\u0152": "Oe",
        "_": "",
    }
)
"""Quotes and dashes in ASCII; underscores, which mark italics, are removed."""


@dataclass(frozen=True)
class Book:
    """A book of the manifest."""

    id: int
    """Its Project Gutenberg number."""
    title: str
    """Without punctuation."""

    @property
    def file(self) -> str:
        """NNNNN-title-slug.txt."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")
        return f"{self.id:05d}-{slug}.txt"


def manifest() -> list[Book]:
    """The books of books.json."""
    return [from_dict(Book, values) for values in json.loads(MANIFEST.read_text(encoding="utf-8"))]


def fetch_books(folder: Path, url: str = GUTENBERG, pause: float = PAUSE, books: list[Book] | None = None) -> int:
    """Fetches the books that are missing in the folder, one at a time; returns their number.

    The licence is removed, each paragraph becomes a line, and the text becomes ASCII. Front matter, headings, footnotes
    and captions stay, unlike in the corpus of the bundled pair, so a pair trained on these files will be close to it
    but not the same.

    Args:
        folder: For NNNNN-title-slug.txt; created if missing.
        url: Folder of `{id}/pg{id}.txt`.
        pause: Seconds between two books.
        books: None: the manifest's.

    Raises:
        KfError: a book cannot be fetched or has no Project Gutenberg marks, or the folder cannot be written to. Books
            that were fetched before are kept.
    """
    wanted = manifest() if books is None else books
    missing = [book for book in wanted if not (folder / book.file).exists()]
    for n, book in enumerate(tqdm(missing, unit="book", disable=None)):
        if n:
            time.sleep(pause)
        source = f"{url.rstrip('/')}/{book.id}/pg{book.id}.txt"
        text = plain(_fetched(book, source))
        if not text:
            raise KfError(
                f"{source} is not a text from Project Gutenberg.", "a file with lines *** START OF and *** END OF"
            )
        with writing(folder / book.file):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / book.file, text)
    return len(missing)


def plain(raw: str) -> str:
    """The book in a Project Gutenberg file, one paragraph per line, in ASCII; "" if its marks are missing."""
    found = MARKED.search(raw)
    if found is None:
        return ""
    folded = unicodedata.normalize("NFKD", found[1].translate(ASCII)).encode("ascii", "ignore").decode()
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", folded))
    return "".join(paragraph + "\n" for paragraph in paragraphs if paragraph)


def _fetched(book: Book, source: str) -> str:
    request = urllib.request.Request(source, headers={"User-Agent": "kfexplore"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            body: bytes = answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        reason = str(error).strip() or repr(error)
        raise KfError(
            f"Book {book.id}, {book.title}, cannot be fetched from {source}: {reason}",
            "a connection to Project Gutenberg, or the address of a mirror (--url)",
            "the same command again: fetched books are kept",
        ) from error
    return body.decode("utf-8-sig", errors="replace")
