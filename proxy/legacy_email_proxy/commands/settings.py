"""Print the effective settings, secrets hidden, and where each came from."""

from __future__ import annotations

import argparse
import os
import sys

from ..composition import choose
from ..settings import unknown_variables

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Exit status 2 when there are mistakes, which follow the settings on standard error."""
    settings, _, mistakes = choose(os.environ)
    width = max(len(setting.name) for setting in settings.declared)
    for setting in settings.declared:
        value = setting.shown(settings[setting.name])
        print(f"{setting.name:<{width}}  {value or '-'}  ({settings.origins[setting.name]})")
    for variable, meant in unknown_variables(os.environ, settings.declared):
        print(f"legacy-email-proxy: {variable}: no such setting, did you mean {meant}?", file=sys.stderr)
    for line in (*settings.mistakes, *mistakes):
        print(f"legacy-email-proxy: {line}", file=sys.stderr)
    return 2 if settings.mistakes or mistakes else 0
