"""List the installed plugins, and whether they can be loaded."""

from __future__ import annotations

import argparse

from .. import plugins

__all__ = ("add_arguments", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(options: argparse.Namespace) -> int:
    """Exit status 0, also with a broken plugin in the list: it may not be in use."""
    rows = [("NAME", "GROUP", "DISTRIBUTION", "VERSION", "STATUS")]
    for group in plugins.GROUPS:
        for found in plugins.available(group):
            rows.append((found.name, group, found.distribution, found.version, _status(found)))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, (*widths, 0), strict=True)).rstrip())
    return 0


def _status(found: plugins.Found) -> str:
    try:
        plugins.load(found)
    except plugins.PluginError as error:
        return f"BROKEN: {error}"
    return "ok"
