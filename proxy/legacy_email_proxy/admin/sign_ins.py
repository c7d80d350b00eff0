"""Consents that are given on the operator's page: each goes on by itself, and the page looks how far it is.

What happens is what the command ``authorize`` does at a terminal; here the person sits at a web browser, and comes back
whenever he likes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from typing import cast
from urllib.parse import parse_qs, urlsplit

from .. import log
from ..contracts import Authorizable, Failure
from ..reloading import Current

__all__ = ("SignIn", "SignIns")

_MOST_SECONDS = 3600.0
"""A consent that nobody gives is given up. Providers' codes end after 15 minutes."""
_MOST_AT_ONCE = 50
_LINES = 20

_log = logging.getLogger("legacy_email_proxy.admin")


class SignIn:
    """One consent. It is the :class:`~legacy_email_proxy.contracts.Dialogue` of the plugin that asks for it."""

    def __init__(self, account: str, plugin: str) -> None:
        self.account = account
        self.plugin = plugin
        self.url = ""
        self.code = ""
        self.said: deque[str] = deque(maxlen=_LINES)
        self.question = ""
        """What the plugin waits for, ``""`` while it waits for the provider."""
        self.failure = ""
        """Why there is no consent, once it is over."""
        self.running = True
        self._answer: asyncio.Future[str] | None = None

    def show(self, url: str, code: str = "") -> None:
        """See :meth:`Dialogue.show`."""
        self.url, self.code = url, code

    def say(self, text: str) -> None:
        """See :meth:`Dialogue.say`."""
        self.said.append(text)

    async def ask(self, question: str) -> str:
        """See :meth:`Dialogue.ask`: wait for :meth:`answer`."""
        self.question = question
        self._answer = asyncio.get_running_loop().create_future()
        try:
            return await self._answer
        finally:
            self.question = ""

    def answer(self, text: str) -> None:
        """What the person has typed. Does nothing where nothing was asked."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(text)

    def began_with(self, state: str) -> bool:
        """Whether the address that was shown has this ``state``, which nobody else can know (RFC 6749 §10.12)."""
        ours = parse_qs(urlsplit(self.url).query).get("state", [""])[0]
        return bool(ours) and secrets.compare_digest(ours.encode(), state.encode("utf-8", "replace"))


class SignIns:
    """The last one of each account and credentials plugin."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], SignIn] = {}
        self._tasks: dict[SignIn, asyncio.Task[None]] = {}

    def of(self, account: str, plugin: str) -> SignIn | None:
        """The one that runs, or how the last one ended."""
        return self._last.get((account, plugin))

    def begin(self, current: Current, account: str, plugin: str, done: Callable[[], None]) -> SignIn:
        """Ask for consent, unless that is being done already. ``done`` is called when there is one.

        The account must have such credentials. Raises :class:`Failure` where too many are under way.
        """
        found = self.of(account, plugin)
        if found is not None and found.running:
            return found
        if len(self._tasks) >= _MOST_AT_ONCE:
            raise Failure("too many sign-ins are under way")
        # A reload must not close the credentials meanwhile.
        used = current.acquire()
        try:
            named = next(each for each in used.composition.accounts if each.name == account)
            credentials = cast(Authorizable, named.credentials[plugin])
        except BaseException:
            current.release(used)
            raise
        sign_in = self._last[account, plugin] = SignIn(account, plugin)
        task = self._tasks[sign_in] = asyncio.create_task(_lead(sign_in, credentials, done))

        def over(_: asyncio.Task[None]) -> None:
            sign_in.running = False
            self._tasks.pop(sign_in)
            current.release(used)

        task.add_done_callback(over)
        return sign_in

    def stop(self, sign_in: SignIn) -> None:
        """Give it up."""
        task = self._tasks.get(sign_in)
        if task is not None:
            task.cancel()

    def redirected(self, query: str) -> SignIn | None:
        """Take the browser's way back from the provider; the sign-in that it belongs to, if any waits for it."""
        state = parse_qs(query).get("state", [""])[0]
        found = next((each for each in self._tasks if each.question and each.began_with(state)), None)
        if found is not None:
            found.answer(f"?{query}")
        return found

    async def aclose(self) -> None:
        """Give all of them up."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _lead(sign_in: SignIn, credentials: Authorizable, done: Callable[[], None]) -> None:
    sign_in.failure = "it was stopped"
    try:
        async with asyncio.timeout(_MOST_SECONDS):
            await credentials.authorize(sign_in, listen=False)
    except TimeoutError:
        sign_in.failure = "nobody consented in time"
    except Failure as failure:
        sign_in.failure = str(failure)
    except Exception as error:
        log.failure(_log, "a sign-in failed", error, account=sign_in.account)
        sign_in.failure = f"unexpected: {type(error).__name__}; the log has more"
    else:
        sign_in.failure = ""
        done()
