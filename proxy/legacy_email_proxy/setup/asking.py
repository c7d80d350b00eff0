"""Questions at a terminal. Answers that an option gave are taken; where nobody can be asked, the default counts."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from typing import NoReturn

from ..contracts import SettingsMistake

__all__ = ("Asker", "Stopped")

Wrong = Callable[[str], str]
"""What is wrong with an answer; ``""``: nothing."""


class Stopped(Exception):
    """The person does not want to go on: the end of input, or a no."""


def _nothing(_: str) -> str:
    return ""


class Asker:
    """``interactive``: there is a terminal, and questions are wanted."""

    def __init__(self, *, interactive: bool) -> None:
        self.interactive = interactive

    def say(self, *lines: str) -> None:
        """Tell the person; in a script there is none."""
        if self.interactive:
            print(*lines, sep="\n", flush=True)

    def text(
        self, question: str, option: str, *, given: str | None = None, default: str = "", optional: bool = False,
        wrong: Wrong = _nothing,
    ) -> str:  # fmt: skip
        """A line. ``option`` is named where the answer is missing or wrong and nobody can be asked."""
        if given is not None or not self.interactive:
            answer = default if given is None else given
            if not answer and not optional:
                self._missing(option)
            if answer and (words := _control(answer) or wrong(answer)):
                raise SettingsMistake(f"{option}: {words}")
            return answer
        while True:
            answer = _line(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
            words = (_control(answer) or wrong(answer)) if answer else "" if optional else "an answer is needed here"
            if not words:
                return answer
            self.say(f"  {words}")

    def choice(
        self, question: str, option: str, choices: Sequence[tuple[str, str]], *, given: str | None = None, default: str
    ) -> str:
        """One of ``choices``, each a name and what it means; the answer may be its number."""
        names = [name for name, _ in choices]

        def wrong(answer: str) -> str:
            return "" if answer in names or _number(answer, names) else f"{answer!r} is none of {', '.join(names)}"

        if given is None:
            self.say("", question)
            self.say(*(f"  {number}  {words}" for number, (_, words) in enumerate(choices, 1)))
        shown = str(names.index(default) + 1) if self.interactive and default in names else default
        answer = self.text("Number", option, given=given, default=shown, wrong=wrong)
        return _number(answer, names) or answer

    def yes(self, question: str, *, default: bool) -> bool:
        """Yes or no; where nobody can be asked, the default."""
        if not self.interactive:
            return default
        while True:
            answer = _line(f"{question} [{'Y/n' if default else 'y/N'}]: ").strip().lower()
            if answer in ("", "y", "yes", "n", "no"):
                return answer.startswith("y") if answer else default
            self.say("  y or n")

    def secret(self, question: str, option: str, *, known: bool = False, optional: bool = False) -> str:
        """A line that is not shown. ``""``: what is ``known`` stays, or there is none."""
        if not self.interactive:
            return "" if known or optional else self._missing(option)
        hint = " (Enter: as it is)" if known else " (Enter: none)" if optional else ""
        while True:
            try:
                answer = getpass.getpass(f"{question}{hint}, not shown: ")
            except EOFError:
                raise Stopped from None
            if answer or known or optional:
                if not (words := _control(answer)):
                    return answer
                self.say(f"  {words}")

    def _missing(self, option: str) -> NoReturn:
        raise SettingsMistake(f"{option}: not given, and nobody can be asked: there is no terminal, or --no-questions")


def _line(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        print(flush=True)
        raise Stopped from None


def _control(answer: str) -> str:
    good = answer.isprintable()
    return "" if good else "there is an invisible character in it, from an arrow key or a web page; type it again"


def _number(answer: str, names: Sequence[str]) -> str:
    return next((name for number, name in enumerate(names, 1) if answer == str(number)), "")
