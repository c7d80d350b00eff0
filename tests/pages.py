"""What people read: README and the pages in ``proxy/docs``, with the marks and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "proxy" / "docs"
PAGES: Mapping[Path, str] = {path: path.read_text(encoding="utf-8") for path in (README, *sorted(DOCS.glob("*.md")))}
MAP = ROOT / "proxy" / "README.md"
GUIDE = ROOT / "plugins" / "README.md"


@dataclass(frozen=True)
class Block:
    """A code block; its text ends with a line end."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}: {self.text.splitlines()[0]}"


def text(name: str) -> str:
    """A page in ``proxy/docs``."""
    return PAGES[DOCS / name]


def marked(kind: str, name: str, page: Path | None = None) -> str:
    """What stands behind ``<!-- kind: name -->``, up to the next blank line or end of a code block.

    It stands on one page only, unless ``page`` says which is meant.
    """
    mark = f"<!-- {kind}: {name} -->\n"
    found = [each.partition(mark)[2] for path, each in PAGES.items() if mark in each and page in (None, path)]
    assert len(found) == 1, f"{len(found)} pages have a {kind} {name}"
    return found[0].split("```")[1].removeprefix("sh\n") if kind == "command" else found[0].partition("\n\n")[0]


def rows(name: str, page: Path | None = None) -> list[str]:
    """The rows of a marked table, without its head."""
    return marked("table", name, page).splitlines()[2:]


def blocks(language: str) -> Iterator[Block]:
    """All code blocks of that language, also those of a list."""
    for page, each in PAGES.items():
        pattern = rf"^( *)```{language}\n(.*?)^\1```$"
        for indent, found in re.findall(pattern, each, re.DOTALL | re.MULTILINE):
            yield Block(page, language, re.sub(rf"^{indent}", "", found, flags=re.MULTILINE))


def prose(page: str) -> str:
    """The page without its code blocks."""
    return re.sub(r"^( *)```\w*\n.*?^\1```$", "", page, flags=re.DOTALL | re.MULTILINE)
