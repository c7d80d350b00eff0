"""Print the settings in effect, and where each came from."""

from __future__ import annotations

import argparse
import os
import sys

from ..build import choose
from ..contracts import Setting
from ..settings import Settings, shown, unknown_variables

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""
    parser.epilog = """\
Secrets are hidden. Those of an account follow, where they differ.

example:
  %(prog)s | grep BACKEND_SMTP
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 2 when there are mistakes, which follow the settings on standard error."""
    choice = choose(os.environ)
    settings = choice.settings
    width = max(len(setting.name) for setting in settings.declared)
    for setting in settings.declared:
        _print(setting, settings, width)
    for account in choice.accounts:
        if account.name:
            print(f"\n[accounts.{account.name}]")
            for setting in account.settings.declared:
                if account.settings.origins[setting.name] != settings.origins[setting.name]:
                    _print(setting, account.settings, width)
    for variable, meant in unknown_variables(os.environ, settings.declared):
        print(f"legacy-email-proxy: {variable}: no such setting, did you mean {meant}?", file=sys.stderr)
    for line in choice.mistakes:
        print(f"legacy-email-proxy: {line}", file=sys.stderr)
    return 2 if choice.mistakes else 0


def _print(setting: Setting, settings: Settings, width: int) -> None:
    value = shown(setting, settings[setting.name])
    print(f"{setting.name:<{width}}  {value or '-'}  ({settings.origins[setting.name]})")
