"""HTTP/1.1 as a server speaks it: requests with a length or in chunks, several on one connection."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ("Body", "Request", "Response", "read_request", "write_response")

_PIECE = 1 << 18


@dataclass
class Body:
    """What came with a request. `octets` is empty for a large one that is not kept, only measured."""

    octets: bytes = b""
    length: int = 0
    sha256: str = ""


@dataclass
class Request:
    """One request; names of headers are in lower case."""

    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Body

    @property
    def json(self) -> Any:
        return json.loads(self.body.octets)


@dataclass(frozen=True)
class Response:
    """An answer; `body` is sent as JSON unless it is octets."""

    status: int
    body: bytes | Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


async def read_request(reader: asyncio.StreamReader, keep: int) -> Request | None:
    """The next request; `None` when the client has hung up. A body of more than `keep` octets is only measured."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.strip().split("\r\n")
    method, target, version = first.split(" ")
    assert version == "HTTP/1.1", version
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    assert "host" in headers, "HTTP/1.1 needs Host (RFC 9112 §3.2)"
    assert "," not in headers.get("content-length", ""), "two lengths (RFC 9112 §6.3)"
    assert not ("content-length" in headers and "transfer-encoding" in headers), "smuggling (RFC 9112 §6.1)"
    parts = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    body = await _body(reader, headers, keep)
    return Request(method, target, unquote(parts.path), query, headers, body)


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str], keep: int) -> Body:
    kept, digest, length = bytearray(), hashlib.sha256(), 0

    def took(octets: bytes) -> None:
        nonlocal length
        digest.update(octets)
        length += len(octets)
        if length <= keep:
            kept.extend(octets)

    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            took(await reader.readexactly(size))
            assert await reader.readexactly(2) == b"\r\n"
        await reader.readuntil(b"\r\n")
    else:
        left = int(headers.get("content-length", "0"))
        while left:
            piece = await reader.read(min(left, _PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(bytes(kept), left)
            left -= len(piece)
            took(piece)
    return Body(bytes(kept) if length <= keep else b"", length, digest.hexdigest())


async def write_response(writer: asyncio.StreamWriter, response: Response, *, cut: int | None = None) -> None:
    """Send it; with `cut` only so many octets of its body."""
    body = response.body
    headers = dict(response.headers)
    if isinstance(body, Mapping):
        body = json.dumps(body).encode()
        headers = {"Content-Type": "application/json; odata.metadata=minimal"} | headers
    body = body or b""
    if response.status != 204:
        headers["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {response.status} fake\r\n{lines}\r\n".encode("latin-1"))
    whole = memoryview(body)[:cut]
    for start in range(0, len(whole), _PIECE):
        writer.write(whole[start : start + _PIECE])
        await writer.drain()
    await writer.drain()
