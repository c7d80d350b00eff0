"""Print the file for systemd, quadlet, compose or Kubernetes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from ..contracts import SettingsMistake
from ..settings import unknown_variables
from ..units import KINDS, UnitFile, gather
from ..units.facts import ADDRESS, IMAGE

__all__ = ("add_arguments", "run")

_MARK = "# Made by `legacy-email-proxy unit "
"""With this begins each file, so that nobody else's is replaced."""
_HOMES = ("/home/", "/root/", "/run/user/")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which kind, and what the settings do not say."""
    parser.add_argument("kind", choices=tuple(KINDS), metavar="KIND", help=", ".join(KINDS))
    sentence = "the settings are there, one NAME=value a line, and not in the environment; the unit names the file"
    parser.add_argument("--env-file", metavar="FILE", type=Path, help=sentence)
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="write the files there")
    parser.add_argument("--image", default=IMAGE, help="the container's image (%(default)s)")
    sentence = f"on which a container's ports are published, if no …_BIND_ADDR says it ({ADDRESS})"
    parser.add_argument("--address", metavar="ADDRESS", type=ip_address, help=sentence)
    parser.epilog = """\
The settings are those of the environment, or of FILE. No secret is printed: the
comments in the files say where each is expected.

examples:
  %(prog)s systemd --env-file mail-proxy.env --output units
  %(prog)s compose --address 192.168.1.10 | tee compose.yaml
"""


def run(options: argparse.Namespace) -> int:
    """Exit status 0: printed or written. 2: the settings can not work that way."""
    environ = os.environ if options.env_file is None else _read(options.env_file)
    facts = gather(
        environ,
        command=_command(),
        image=options.image,
        address=options.address and str(options.address),
        env_file="" if options.env_file is None else str(options.env_file.absolute()),
    )
    made = KINDS[options.kind](facts)
    for variable, meant in unknown_variables(environ, facts.settings.declared):
        _note(f"{variable}: no such setting, did you mean {meant}?")
    if options.kind == "systemd" and facts.command.startswith(_HOMES):
        _note(f"the service may not look into homes, so it can not start {facts.command}: install it in /opt")
    if options.kind in ("quadlet", "compose") and facts.address == ADDRESS and options.address is None:
        _note(f"{ADDRESS} stands for this machine's address in your network: give it with --address")
    if options.output is not None:
        for unit in made:
            _write(options.output / unit.name, unit)
    elif len(made) == 1:
        print(made[0].text, end="")
    else:
        print("\n".join(f"# {unit.folder}/{unit.name}\n{unit.text}" for unit in made), end="")
    return 0


def _read(env_file: Path) -> Mapping[str, str]:
    """The variables as podman reads them: what is behind the first ``=`` is the value, quotes included."""
    try:
        text = env_file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsMistake(f"--env-file: can not read {str(env_file)!r}: {reason}") from None
    lines = [line for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#")]
    return {name.strip(): value for name, _, value in (line.partition("=") for line in lines)}


def _command() -> str:
    """How systemd starts this program: by its full path."""
    started = Path(sys.argv[0])
    if started.name == "legacy-email-proxy":
        return str(started.absolute())
    return f"{sys.executable} -m legacy_email_proxy"


def _write(path: Path, unit: UnitFile) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_MARK):
            raise SettingsMistake(f"--output: {path} is there already, and this command did not make it")
        coming = path.with_name(f".{path.name}.new")
        coming.write_text(unit.text, encoding="utf-8")
        coming.replace(path)
    except OSError as error:
        raise SettingsMistake(f"--output: can not write {path}: {error.strerror}") from None
    print(path)


def _note(text: str) -> None:
    print(f"legacy-email-proxy: {text}", file=sys.stderr)
