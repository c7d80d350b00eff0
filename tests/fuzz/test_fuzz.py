"""Every target on what hypothesis makes of its words, and on all that is kept in the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.target import cuts_for
from fuzz.targets import CORPUS, TARGETS

KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


def inputs(words: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(words) | st.binary(max_size=12), max_size=25).map(b"".join)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60)
@given(data=st.data(), cuts=st.lists(st.integers(0, 4000), max_size=12))
def test_any_octets_however_they_are_cut(name: str, data: st.DataObject, cuts: list[int]) -> None:
    target = TARGETS[name]
    target.run(data.draw(inputs(target.words)), cuts)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_kept(path: Path) -> None:
    octets = path.read_bytes()
    TARGETS[path.parent.name].run(octets, cuts_for(octets))
    TARGETS[path.parent.name].run(octets, range(len(octets)))


def test_every_folder_of_the_corpus_is_a_targets() -> None:
    assert {path.parent.name for path in KEPT} <= set(TARGETS)
