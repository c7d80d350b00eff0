"""Reads a Containerfile as far as a test of its facts needs it: stages and instructions, and no shell inside them."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Instruction:
    """One instruction, its continued lines joined; `stage` counts the FROMs before it and its own."""

    stage: int
    keyword: str
    text: str

    @property
    def words(self) -> list[str]:
        """The words of its exec form, `["a", "b"]`, and otherwise those that a shell would see."""
        return self.exec_form if self.text.startswith("[") else shlex.split(self.text)

    @property
    def exec_form(self) -> list[str]:
        """The program and its arguments; ValueError where a shell would have to find them."""
        return list(json.loads(self.text[self.text.find("[") :]))

    @property
    def pairs(self) -> dict[str, str]:
        """What ENV, ARG or LABEL sets."""
        return dict(word.split("=", 1) for word in self.words if "=" in word)


@dataclass(frozen=True)
class Containerfile:
    instructions: tuple[Instruction, ...]

    @classmethod
    def read(cls, path: Path) -> Self:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
        found: list[Instruction] = []
        stage = 0
        for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
            if line.strip():
                keyword, text = line.strip().split(maxsplit=1)
                stage += keyword == "FROM"
                found.append(Instruction(stage, keyword, text))
        return cls(tuple(found))

    def all(self, keyword: str) -> list[Instruction]:
        return [each for each in self.instructions if each.keyword == keyword]

    def final(self, keyword: str) -> list[Instruction]:
        """Those of the last stage, which are the image's own."""
        last = self.instructions[-1].stage
        return [each for each in self.all(keyword) if each.stage == last]

    def pairs(self, keyword: str) -> dict[str, str]:
        """What the last stage's instructions of that keyword set, together."""
        return {name: value for each in self.final(keyword) for name, value in each.pairs.items()}
