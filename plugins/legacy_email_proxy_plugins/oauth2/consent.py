"""The one-off consent of the mailbox's owner, in a browser: by a code to type there, or an address to open."""

from __future__ import annotations

import base64
import hashlib
import secrets
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit, urlunsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream

from legacy_email_proxy.contracts import Dialogue, Disconnected, Failure, Overloaded, Secret, Unreachable

from .configuration import Configuration
from .errors import GrantRefused
from .grants import Granted, Grants

__all__ = ("consent",)

_BROWSER_SECONDS = 900.0
_REQUEST_SECONDS = 10.0
_REQUEST_OCTETS = 16384
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")


async def consent(configuration: Configuration, grants: Grants, dialogue: Dialogue, *, listen: bool) -> Granted:
    """Lead the operator through the consent. Raises a :class:`Failure` when it gives no refresh token."""
    if configuration.grant == "device_code":
        granted = await _by_device(grants, dialogue)
    elif configuration.grant == "authorization_code":
        granted = await _by_browser(configuration, grants, dialogue, listen=listen)
    else:
        detail = f"OAUTH2_GRANT is {configuration.grant or 'not set'}, which asks for nobody's consent"
        instead = "OAUTH2_GRANT (device_code or authorization_code)"
        if configuration.grant == "refresh_token":
            instead = f"OAUTH2_REFRESH_TOKEN, which you get elsewhere, or {instead}"
        raise Failure(detail, look_at=instead)
    if granted.refresh_token is None:
        detail = "the provider gave a token for now, but none to renew it with"
        raise Failure(detail, look_at="OAUTH2_SCOPE (many providers want offline_access in it)")
    return granted


async def _by_device(grants: Grants, dialogue: Dialogue) -> Granted:
    code = await grants.device_code()
    dialogue.show(code.verification_url, code.user_code)
    dialogue.say(f"Waiting for up to {code.seconds / 60:.0f} minutes …")
    interval = code.interval
    with anyio.move_on_after(code.seconds):
        while True:
            await anyio.sleep(interval)
            try:
                return await grants.for_device(code)
            except GrantRefused as refused:
                if refused.code == "slow_down":
                    interval += 5
                elif refused.code != "authorization_pending":
                    raise
            except (Unreachable, Disconnected, Overloaded) as failure:
                interval *= 2
                dialogue.say(f"{failure}; trying again in {interval:.0f} s")
    raise Failure("nobody consented in time; run it again")


@dataclass(frozen=True, slots=True)
class _Request:
    """One request for consent. ``verifier`` proves that this process also began the request (RFC 7636)."""

    state: str
    verifier: Secret

    @classmethod
    def new(cls) -> _Request:
        return cls(secrets.token_urlsafe(24), Secret(secrets.token_urlsafe(64)))

    @property
    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.reveal().encode("ascii")).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")

    def code_in(self, url: str) -> Secret:
        """The authorization code in the address that the browser was sent to. Raises :class:`Failure`."""
        try:
            query = parse_qs(urlsplit(url.strip()).query)
        except ValueError:  # not an address
            query = {}
        given = {name: values[0] for name, values in query.items()}
        if not secrets.compare_digest(given.get("state", "").encode("utf-8", "replace"), self.state.encode()):
            raise Failure("this address does not belong to this request: its `state` is missing or another one")
        if "error" in given:
            said = f"{given['error']} {given.get('error_description', '')}".strip()
            raise GrantRefused(f"no consent: {said[:300]!a}", code=given["error"])
        if not given.get("code"):
            raise Failure("there is no `code` in this address; copy the whole of it")
        return Secret(given["code"])


async def _by_browser(configuration: Configuration, grants: Grants, dialogue: Dialogue, *, listen: bool) -> Granted:
    request = _Request.new()
    if listen:
        redirect_url, code = await _listened(configuration, grants, dialogue, request)
    else:
        redirect_url = configuration.redirect_url
        url = grants.consent_url(redirect_url=redirect_url, state=request.state, challenge=request.challenge)
        dialogue.show(url)
        dialogue.say(
            f"Then the browser is sent to {redirect_url}… and may say that it can't open that. It need not:"
            " copy the whole address from its address bar."
        )
        code = request.code_in(await dialogue.ask("Paste that address here: "))
    return await grants.for_code(code, redirect_url=redirect_url, verifier=request.verifier)


async def _listened(
    configuration: Configuration, grants: Grants, dialogue: Dialogue, request: _Request
) -> tuple[str, Secret]:
    parts = urlsplit(configuration.redirect_url)
    if parts.scheme != "http" or parts.hostname not in _LOOPBACK:
        detail = f"{configuration.redirect_url} does not lead to this machine, so nobody can listen there"
        raise Failure(detail, look_at="OAUTH2_REDIRECT_URL (such as http://localhost)")
    # Browsers that take ::1 for localhost try 127.0.0.1 too.
    host = "::1" if parts.hostname == "::1" else "127.0.0.1"
    try:
        listener = await anyio.create_tcp_listener(local_host=host, local_port=parts.port or 0)
    except OSError as error:
        raise Failure(f"can not listen on port {parts.port}: {error.strerror}", look_at="OAUTH2_REDIRECT_URL") from None
    port = listener.extra(SocketAttribute.local_port)  # noqa: S610 (no SQL)
    named = f"[{host}]" if host == "::1" else parts.hostname
    redirect_url = urlunsplit(parts._replace(netloc=f"{named}:{port}"))
    url = grants.consent_url(redirect_url=redirect_url, state=request.state, challenge=request.challenge)
    answers: list[str] = []
    """The path and query of the browser's request that carried the consent or its refusal."""
    done = anyio.Event()

    async def answer(stream: SocketStream) -> None:
        async with stream:
            # A browser may connect without a request, and other programs may connect too: keep waiting after those.
            with anyio.move_on_after(_REQUEST_SECONDS), suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                target = await _target(stream)
                try:
                    request.code_in(target)
                    text = "Thank you. You may close this window."
                except GrantRefused:
                    text = "There is no consent. Look into the terminal."
                except Failure:
                    # Not the redirect: a browser also asks for an icon.
                    await stream.send(b"HTTP/1.0 404 Not Found\r\n\r\n")
                    return
                answers.append(target)
                head = "HTTP/1.0 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
                await stream.send((head + text).encode())
        if answers:
            done.set()

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        dialogue.show(url)
        dialogue.say("The browser has to run on this machine.")
        with anyio.move_on_after(_BROWSER_SECONDS):
            await done.wait()
        group.cancel_scope.cancel()
    if not answers:
        raise Failure("nobody consented in time; run it again")
    return redirect_url, request.code_in(answers[0])


async def _target(stream: SocketStream) -> str:
    """The path and query of a GET request; empty for anything else."""
    head = b""
    try:
        while b"\r\n\r\n" not in head and len(head) < _REQUEST_OCTETS:
            head += await stream.receive()
    except anyio.EndOfStream:
        return ""
    words = head.partition(b"\r\n")[0].decode("ascii", "replace").split(" ")
    return words[1] if len(words) == 3 and words[0] == "GET" else ""
