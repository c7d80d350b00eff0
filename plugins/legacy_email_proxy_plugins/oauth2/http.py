"""Posts a form to an endpoint: verified TLS, one deadline for the whole exchange, a small answer, no redirects."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import anyio

from legacy_email_proxy.contracts import Disconnected, Unreachable, Unusable

from .. import https
from ..clock import clock_offset

__all__ = ("ANSWER_OCTETS", "Answer", "Endpoints")

ANSWER_OCTETS = 65536
"""An answer with a token has a few KiB."""

_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and the JSON object in the answer, empty if there was none. Never log ``body``: it may hold a token.

    ``variable`` is the setting that holds the endpoint's address.
    """

    status: int
    body: Mapping[str, Any]
    host: str
    variable: str = "OAUTH2_TOKEN_URL"


class Endpoints:
    """Speaks to a provider's endpoints. A proxy is used where ``HTTPS_PROXY`` and ``NO_PROXY`` say so."""

    def __init__(self, tls: ssl.SSLContext, seconds: float = 20.0, patience: float = _PATIENCE_SECONDS) -> None:
        self._tls = tls
        self._seconds = seconds
        self._patience = patience
        self.clock_offset: float | None = None
        """By how many seconds our clock is ahead of an endpoint's, as its last answer had it."""

    async def post(
        self,
        url: str,
        form: Mapping[str, str],
        basic: tuple[str, str] | None = None,
        *,
        once: bool = False,
        variable: str = "OAUTH2_TOKEN_URL",
    ) -> Answer:
        """Raises :class:`Unreachable`, :class:`Unverified`, :class:`Unusable` or :class:`Disconnected`.

        ``once``: the form may hold a code or token that works only once, so that a lost answer can't be asked for
        again. The call then waits up to ``patience`` seconds.
        """
        host, look_at = urlsplit(url).hostname or url, f"{variable}, HTTPS_PROXY"
        seconds = self._patience if once else self._seconds
        try:
            with https.failures(host, self._seconds, look_at, "OAUTH2_CA_FILE"), anyio.fail_after(seconds):
                status, octets = await self._exchange(url, form, basic)
        except TimeoutError:
            raise Unreachable(f"{host} did not answer within {seconds:g} s", look_at=look_at) from None
        if 300 <= status < 400:
            detail = f"{host} answers with a redirect (status {status}), which is not followed"
            raise Unusable(detail, look_at=variable)
        return Answer(status, _parsed(octets), host, variable)

    async def _exchange(self, url: str, form: Mapping[str, str], basic: tuple[str, str] | None) -> tuple[int, bytes]:
        client = https.client(self._tls, self._seconds)
        # A few compressed octets can unpack to gigabytes: ask for no compression, and never unpack.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with client, client.stream("POST", url, data=form, headers=headers, auth=basic) as response:
            self.clock_offset = clock_offset(response.headers.get("Date", ""))
            octets = bytearray()
            async for piece in response.aiter_raw():
                octets += piece
                if len(octets) > ANSWER_OCTETS:
                    host = urlsplit(url).hostname
                    raise Disconnected(f"{host} sends more than {ANSWER_OCTETS} octets, which is no answer")
            return response.status_code, bytes(octets)


def _parsed(octets: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(octets)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
