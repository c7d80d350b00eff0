"""Tokens on disk: one file per account, written atomically, readable by its owner only, encrypted if a key is set.

Several processes may use it at once (the service, ``check``, ``authorize``), so a process that wants to replace a token
first takes the account's lock and reads the file again.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple
from urllib.parse import quote

import anyio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from legacy_email_proxy.contracts import BearerToken, Failure, Overloaded, Secret, StorageFull

from ..files import leave_to_service, sync_directory
from .disk import Disk

__all__ = ("Damaged", "Record", "Store")

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_LOCK_SECONDS = 60.0
"""Longer than the request during which another process usually holds the lock."""
_ROOM_OCTETS = 98304
"""More than a record takes: two tokens of 16 KiB, each character escaped, all of it encrypted and in base64."""
_LOOK_AT_KEY = "OAUTH2_STORE_KEY"


class Damaged(Failure):
    """The file exists but can't be read: it is damaged, or encrypted with another key."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one account's tokens. Times are seconds since 1970, 0 for never.

    ``seed`` is the SHA-256 of the ``OAUTH2_REFRESH_TOKEN`` that was set when the tokens were stored; ``basis`` that of
    the settings used to ask for them. ``kept`` is the time of the last renewal if that did not replace the refresh
    token, else 0. ``asked`` are the scopes that were requested together with the refresh token. ``consent_ends``: the
    refresh token works until then, as the provider says.
    """

    grant: str = ""
    access_token: BearerToken | None = None
    refresh_token: Secret | None = None
    scope: str = ""
    obtained: float = 0.0
    expires: float = 0.0
    seed: str = ""
    basis: str = ""
    error: str = ""
    error_at: float = 0.0
    kept: float = 0.0
    asked: str = ""
    consent_ends: float = 0.0


class Store:
    """The file of one account. ``folder`` is called each time that the path is needed."""

    def __init__(self, folder: Callable[[], Path], account: str, key: Secret | None) -> None:
        self._folder = folder
        self._account = account
        self._key = key
        self._disk = Disk()
        self._derived: tuple[bytes, bytes] | None = None
        self._seen: tuple[int, ...] | None = None
        self._record: Record | None = None
        self._part: Path | None = None

    async def load(self) -> Record:
        """What is stored now; the file is read again only if it has changed. Raises :class:`Damaged`.

        While the disk does not answer, the record that was read or saved last is returned.
        """
        try:
            return await self._disk.run(self._load)
        except TimeoutError as error:
            if self._record is None:
                raise _unreadable(error) from None
            return self._record

    async def save(self, record: Record) -> None:
        """Store it, safe from a power cut on return. Raises :class:`StorageFull`, and keeps the old record then."""
        await self._on_disk(self._save, record)

    @asynccontextmanager
    async def room(self) -> AsyncIterator[None]:
        """Reserve disk space for a :meth:`save` inside the block. Raises :class:`StorageFull` if there is none."""
        self._part = part = await self._on_disk(self._reserve, undo=_removed)
        try:
            yield
        finally:
            self._part = None
            await self._disk.give_back(_removed, part)

    @asynccontextmanager
    async def locked(self, seconds: float | None = None) -> AsyncIterator[None]:
        """Keep other processes from replacing the token; within this process the caller must prevent that.

        Raises :class:`Overloaded` if another process holds the lock too long, :class:`StorageFull` if locking fails.
        """
        descriptor = await self._on_disk(self._open_lock, undo=os.close)
        try:
            await self._wait_for_lock(descriptor, _LOCK_SECONDS if seconds is None else seconds)
            yield
        finally:
            # After calls submitted before: a hanging save still writes when the disk answers again, and until then no
            # other process may replace the token.
            await self._disk.give_back(os.close, descriptor)

    async def _wait_for_lock(self, descriptor: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not await self._on_disk(_locked, descriptor):
            if time.monotonic() > deadline:
                raise Overloaded("another process is busy with this account's token for too long")
            await anyio.sleep(0.02)

    async def _on_disk(
        self, function: Callable[[*Arguments], T], *args: *Arguments, undo: Callable[[T], object] | None = None
    ) -> T:
        try:
            return await self._disk.run(function, *args, undo=undo)
        except TimeoutError as error:
            raise _unwritable(error) from None

    # The methods below run in a thread.

    def _file(self, suffix: str = ".json") -> Path:
        return self._folder() / (quote(self._account, safe="@") + suffix)

    def _open_lock(self) -> int:
        try:
            file = self._file(".lock")
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                leave_to_service(descriptor, file.parent)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise _unwritable(error) from None
        return descriptor

    def _load(self) -> Record:
        try:
            with self._file().open("rb") as file:
                status = os.fstat(file.fileno())
                seen = (status.st_ino, status.st_mtime_ns, status.st_size)
                if seen == self._seen and self._record is not None:
                    return self._record
                octets = file.read()
        except FileNotFoundError:
            self._seen, self._record = None, Record()
            return self._record
        except OSError as error:
            raise _unreadable(error) from None
        self._record = _record(self._opened(octets))
        self._seen = seen
        return self._record

    def _opened(self, octets: bytes) -> dict[str, Any]:
        found = _object(octets)
        if "sealed" not in found:
            return found
        if self._key is None:
            raise Damaged("the stored token is encrypted, and there is no key for it", look_at=_LOOK_AT_KEY)
        try:
            salt, nonce, sealed = (base64.b64decode(found[name]) for name in ("salt", "nonce", "sealed"))
            return _object(AESGCM(self._derive(salt)).decrypt(nonce, sealed, self._account.encode()))
        except InvalidTag:
            detail = "the stored token was encrypted with another key, or is damaged; with the token gone, remove the"
            raise Damaged(f"{detail} file in STATE_DIR and authorize again", look_at=_LOOK_AT_KEY) from None
        except (KeyError, ValueError, TypeError):
            raise _damaged() from None

    def _sealed(self, octets: bytes) -> bytes:
        if self._key is None:
            return octets
        salt = self._derived[0] if self._derived else secrets.token_bytes(16)
        nonce = secrets.token_bytes(12)
        # The account's name is authenticated too, so that one account's file can't be used as another's.
        sealed = AESGCM(self._derive(salt)).encrypt(nonce, octets, self._account.encode())
        parts = {"salt": salt, "nonce": nonce, "sealed": sealed}
        return json.dumps({name: base64.b64encode(part).decode() for name, part in parts.items()}).encode()

    def _derive(self, salt: bytes) -> bytes:
        assert self._key is not None  # noqa: S101 (both callers have looked)
        if self._derived is None or self._derived[0] != salt:
            # Slow on purpose (some 50 ms and 32 MiB), against guessing; so the result is kept for each salt.
            derived = Scrypt(salt, length=32, n=2**15, r=8, p=1).derive(self._key.reveal().encode())
            self._derived = (salt, derived)
        return self._derived[1]

    def _reserve(self) -> Path:
        try:
            part = _part_of(self._file())
            try:
                _write(part, bytes(_ROOM_OCTETS))
            except BaseException:
                _removed(part)
                raise
        except OSError as error:
            raise _unwritable(error) from None
        return part

    def _save(self, record: Record) -> None:
        octets = self._sealed(json.dumps(_fields(record)).encode())
        try:
            file = self._file()
            part = self._part or _part_of(file)
            try:
                _write(part, octets)
                part.replace(file)
            finally:
                _removed(part)
            sync_directory(file.parent)
        except OSError as error:
            raise _unwritable(error) from None
        self._seen, self._record = None, record


def _part_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")


def _write(part: Path, octets: bytes) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        leave_to_service(descriptor, part.parent)
        file.write(octets)
        # Truncate after writing: overwriting reserved octets needs no new disk space.
        file.truncate()
        file.flush()
        os.fsync(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have no locks.
        raise _unwritable(error) from None
    return True


def _removed(part: Path) -> None:
    with suppress(OSError):
        part.unlink()


def _unwritable(error: OSError) -> StorageFull:
    return StorageFull(f"the token can not be stored: {error.strerror}", look_at="STATE_DIR")


def _unreadable(error: OSError) -> Damaged:
    return Damaged(f"the stored token can not be read: {error.strerror}", look_at="STATE_DIR")


def _damaged() -> Damaged:
    detail = "the stored token is damaged; run `legacy-email-proxy authorize` again, or remove the file"
    return Damaged(detail, look_at="STATE_DIR")


def _object(octets: bytes) -> dict[str, Any]:
    try:
        found = json.loads(octets)
    except (ValueError, RecursionError):
        raise _damaged() from None
    if not isinstance(found, dict):
        raise _damaged()
    return found


def _fields(record: Record) -> dict[str, Any]:
    fields = {name: getattr(record, name) for name in Record.__slots__}
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in fields.items()}


def _record(fields: dict[str, Any]) -> Record:
    """A record from the file's fields. Raises :class:`Damaged` for a missing field or one of the wrong type."""
    kinds: dict[str, Any] = {"access_token": BearerToken, "refresh_token": Secret}
    found: dict[str, Any] = {}
    if not fields.keys() >= {"grant", "refresh_token", "obtained"}:
        raise _damaged()
    for name in Record.__slots__:
        value = fields.get(name)
        if value is None:
            continue
        numeric = name in ("obtained", "expires", "error_at", "kept", "consent_ends")
        if not isinstance(value, (int, float) if numeric else str):
            raise _damaged()
        found[name] = kinds.get(name, lambda value: value)(value)
    return Record(**found)
