import subprocess
from collections.abc import Sequence

from anyio import run_process

from legacy_email_proxy.contracts import (
    Account,
    BearerToken,
    Context,
    Finding,
    Level,
    NoCredentials,
    Password,
    Setting,
)


class HelperCredentials:
    """Asks a program, with the user's name, for the password; once, until the backend refuses it."""

    settings = (Setting("ACME_HELPER", "path", "/usr/local/bin/acme-password", "The program that knows passwords."),)

    def __init__(self, context: Context) -> None:
        self.program = context.settings["ACME_HELPER"]
        self.known: dict[str, Password] = {}

    async def secret(self, account: Account) -> Password:
        if account.user not in self.known:
            self.known[account.user] = await self.ask(account.user)
        return self.known[account.user]

    async def ask(self, user: str) -> Password:
        try:
            done = await run_process([str(self.program), user], stderr=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            detail = f"{self.program} gives no password: {type(error).__name__}"
            raise NoCredentials(detail, look_at="ACME_HELPER") from None
        return Password(done.stdout.decode().strip())

    async def refused(self, account: Account, secret: Password | BearerToken) -> bool:
        self.known.pop(account.user, None)
        return await self.secret(account) != secret

    async def probe(self) -> Sequence[Finding]:
        if self.program.is_file():
            return ()
        return (Finding(Level.BAD, f"there is no {self.program}", "look at ACME_HELPER"),)

    async def aclose(self) -> None:
        pass
