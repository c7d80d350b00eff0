"""The catalogue of texts: each that is asked for is there, each that is there is asked for, and templates have none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from legacy_email_proxy.admin import page
from legacy_email_proxy.admin.page import texts

FOLDER = Path(page.__file__).parent
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in (FOLDER / "templates").glob("*.html")}
MODULES = [path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")]
SOURCES = [*TEMPLATES.values(), *MODULES]


def asked() -> tuple[set[str], set[str]]:
    """Whole keys, and beginnings of those that are put together."""
    whole: set[str] = set()
    begun: set[str] = set()
    for source in SOURCES:
        whole |= set(re.findall(r"""["']([a-z_]+(?:\.[\w .]+)?)["']""", source))
        begun |= set(re.findall(r"""["']((?:[a-z_0-9]+\.)+)["'] ~""", source))
        begun |= set(re.findall(r"""f["']((?:[a-z_0-9]+\.)+)\{""", source))
    return whole, begun


def test_each_text_is_asked_for() -> None:
    whole, begun = asked()
    unused = [
        key
        for key in texts._TEXTS
        if key not in whole and key.removesuffix(".one") not in whole and not key.startswith((*begun, "done."))
    ]
    assert unused == []


def test_each_text_that_a_template_asks_for_is_there() -> None:
    for name, source in TEMPLATES.items():
        for key in re.findall(r"""\bt\(["']([\w .]+)["'](?! ~)""", source):
            assert texts.text.has(key), (name, key)


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_have_no_words_of_their_own(name: str) -> None:
    bare = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<[^>]*>", " ", TEMPLATES[name], flags=re.DOTALL)
    assert re.findall(r"[A-Za-z]{2,}", bare) == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_let_nothing_through_unescaped(name: str) -> None:
    assert not re.search(r"\|\s*safe\b|autoescape|Markup", TEMPLATES[name])
