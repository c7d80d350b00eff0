"""Encrypts what is stored, with the key in ``OAUTH2_STORE_KEY``. Loaded only where there is one."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from legacy_email_proxy.contracts import Secret

__all__ = ("Cipher",)


class Cipher:
    """AES-GCM for what one account stores. It may take a moment, so call it in a thread."""

    def __init__(self, account: str, key: Secret) -> None:
        # The account's name is authenticated too, so that one account's file can't be used as another's.
        self._account = account.encode()
        self._key = key
        self._derived: tuple[bytes, bytes] | None = None

    def opened(self, parts: Mapping[str, Any]) -> bytes | None:
        """What was encrypted; ``None`` where it was with another key, or is damaged.

        Raises :class:`KeyError`, :class:`ValueError` or :class:`TypeError` where these are not the parts of it.
        """
        salt, nonce, sealed = (base64.b64decode(parts[name]) for name in ("salt", "nonce", "sealed"))
        try:
            return AESGCM(self._derive(salt)).decrypt(nonce, sealed, self._account)
        except InvalidTag:
            return None

    def sealed(self, octets: bytes) -> dict[str, str]:
        """The parts to be stored."""
        salt = self._derived[0] if self._derived else secrets.token_bytes(16)
        nonce = secrets.token_bytes(12)
        sealed = AESGCM(self._derive(salt)).encrypt(nonce, octets, self._account)
        parts = {"salt": salt, "nonce": nonce, "sealed": sealed}
        return {name: base64.b64encode(part).decode() for name, part in parts.items()}

    def _derive(self, salt: bytes) -> bytes:
        if self._derived is None or self._derived[0] != salt:
            # Slow on purpose (some 50 ms and 32 MiB), against guessing; so the result is kept for each salt.
            derived = Scrypt(salt, length=32, n=2**15, r=8, p=1).derive(self._key.reveal().encode())
            self._derived = (salt, derived)
        return self._derived[1]
