"""The files that the set-up writes: an env file, perhaps an accounts file, and one file for each secret.

Four programs read the env file, and each understands quotes, blanks and backslashes in its own way: podman and docker,
systemd, and a shell. What all of them read alike stands there as it is; anything else, and every secret, gets a file of
its own that the variable ``…_FILE`` names. The paths of such files stand there as they are, so they are checked.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..contracts import SettingsMistake
from .draft import SETTINGS, Draft, is_secret

__all__ = ("NewFile", "ambiguous", "read_env", "rendered", "write")

_PLAIN = re.compile(r"[\w@%+=:,./-]*")
"""What all readers of an env file take as it is."""
_SUFFIXES = {
    "BACKEND_SMTP_PASS": "password",
    "BACKEND_IMAP_PASS": "imap-password",
    "OAUTH2_CLIENT_SECRET": "client-secret",
    "OAUTH2_CLIENT_KEY": "client-key.pem",
    "OAUTH2_CLIENT_CERT": "client-cert.pem",
    "OAUTH2_SERVICE_ACCOUNT": "service-account.json",
}
"""How the file of a secret ends; of any other variable it is the variable's own name."""


def ambiguous(path: str) -> str:
    """What is wrong with a path that the env file is to name; ``""``: nothing."""
    if _PLAIN.fullmatch(path):
        return ""
    return f"{path!r} has a blank or a special character in it, which programs read differently; choose another place"


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is to be written."""

    path: Path
    text: str


def read_env(path: Path) -> dict[str, str]:
    """The variables of an env file, read as podman reads it. Raises :class:`SettingsMistake`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise SettingsMistake(f"--output: can not read {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsMistake(f"--output: {str(path)!r} is not UTF-8 text, so it is no env file") from None
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): text for name, text in pairs if text}


def rendered(draft: Draft, output: Path) -> list[NewFile]:
    """All files of this draft; the env file, which names the others, is the last."""
    folder, files = _Secrets(output), []
    values = dict(draft.values)
    if draft.accounts:
        accounts = output.with_suffix(".toml")
        tables = {name: folder.outside(each, name) for name, each in draft.accounts.items()}
        files.append(NewFile(accounts, _toml(tables, draft.rules)))
        values["ACCOUNTS_FILE"] = str(accounts)
    lines = [f"{name}={text}" for name, text in folder.outside(values, "", plain=True).items()]
    head = "# Written by `legacy-email-proxy setup`. One variable a line, without quotes.\n"
    return [*folder.files, *files, NewFile(output, head + "".join(f"{line}\n" for line in lines))]


class _Secrets:
    """Moves secrets into files beside the env file. Two variables with one value share a file."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self.files: list[NewFile] = []

    def outside(self, values: Mapping[str, str], account: str, *, plain: bool = False) -> dict[str, str]:
        """``values`` with ``…_FILE`` for each secret; ``plain``: and for all that not every reader takes as it is."""
        found: dict[str, str] = {}
        known: dict[str, Path] = {}
        for name, text in values.items():
            stem = name.removesuffix("_FILE")
            if plain and name not in SETTINGS and stem in SETTINGS and (words := ambiguous(text)):
                raise SettingsMistake(f"{name}: {words}")
            if is_secret(name) or (plain and not _PLAIN.fullmatch(text)):
                suffix = _SUFFIXES.get(name, name.lower().replace("_", "-"))
                parts = [self._output.stem, *([account] if account else []), suffix]
                if text not in known:
                    known[text] = self._output.with_name(".".join(parts))
                    self.files.append(NewFile(known[text], f"{text}\n"))
                found[f"{name}_FILE"] = str(known[text])
            else:
                found[name] = text
        return found


def _toml(accounts: Mapping[str, Mapping[str, str]], rules: Sequence[Mapping[str, str]]) -> str:
    def lines() -> Iterator[str]:
        yield "# Written by `legacy-email-proxy setup`."
        for name, values in accounts.items():
            yield f"\n[accounts.{name}]"
            yield from (f"{key} = {_quoted(text)}" for key, text in values.items())
        for rule in rules:
            yield "\n[[rules]]"
            yield from (f"{key} = {_quoted(text)}" for key, text in rule.items())

    return "".join(f"{line}\n" for line in lines())


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's, too.
    return json.dumps(text, ensure_ascii=False)


def write(files: Sequence[NewFile]) -> None:
    """Write all of them. Each is whole or, if the process or the power fails meanwhile, still the former one.

    A disk that is full is noticed before the first file is replaced. Raises
    :class:`SettingsMistake`.
    """
    # Through a link, the file that it leads to is replaced, not the link.
    targets = [Path(os.path.realpath(each.path)) for each in files]
    temporary = [target.with_name(f".{target.name}.new") for target in targets]
    try:
        for new, target, each in zip(temporary, targets, files, strict=True):
            _write_new(new, target, each.text)
        for new, target in zip(temporary, targets, strict=True):
            new.replace(target)
        for folder in dict.fromkeys(target.parent for target in targets):
            _sync(folder)
    except OSError as error:
        raise SettingsMistake(
            f"--output: can not write {str(error.filename or files[-1].path)!r}: {error.strerror}"
        ) from None
    finally:
        for new in temporary:
            with suppress(OSError):
                new.unlink()


def _write_new(new: Path, target: Path, text: str) -> None:
    with suppress(FileNotFoundError):
        # What a run that was killed has left.
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        with suppress(FileNotFoundError):
            former = target.stat()
            if os.geteuid() == 0:
                # The service's user could not read it otherwise.
                os.fchown(descriptor, former.st_uid, former.st_gid)
            os.fchmod(descriptor, 0o600 | former.st_mode & stat.S_IRGRP)
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Some network file systems can not do that; the files themselves are on disk.
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
