"""Wrong passwords, many at once: the provider must not be asked about each, and others' logins must not wait."""

from __future__ import annotations

import base64

from abuse.crowd import Crowd
from abuse.scene import PASSWORD, USERS, Attack, Scene
from legacy_email_proxy.accounts.users import PasswordHash

ADDRESS = "127.0.0.11"
ASKED = 20
"""So many of a crowd of wrong passwords may reach the provider in the seconds that an attack takes."""
FIRST_LOGIN_SECONDS = 5.0


def guess(scene: Scene, addresses: list[str], each: int) -> None:
    with Crowd() as crowd:
        for address in addresses:
            crowd.connect(scene.ports["pop3"], address, each)
        crowd.pump(2, lambda: all(peer.lines for peer in crowd.open))
        for number, peer in enumerate(crowd.open):
            crowd.say(b"USER user%d\r\nPASS wrong %d\r\n" % (number % USERS, number), [peer])
        crowd.pump(scene.size(10, 5), lambda: not crowd.open)


def backend_passwords(scene: Scene) -> None:
    """190 wrong passwords at once with POP3_LOGIN=backend: a provider that sees them all blocks the proxy's address."""
    guess(scene, [ADDRESS], scene.size(190, 100))
    _count(scene)


def backend_spread(scene: Scene) -> None:
    """The same from 150 addresses, one each."""
    guess(scene, [f"127.1.1.{number}" for number in range(1, 151)], 1)
    _count(scene)


def _count(scene: Scene) -> None:
    asked = scene.counted()["refused"]
    scene.note(f"{asked} wrong passwords reached the provider")
    if asked > ASKED:
        scene.bad(f"the provider was asked about {asked} wrong passwords")


def local_users(scene: Scene) -> None:
    """190 wrong passwords of users of ACCOUNTS_FILE, each of which costs a processor 50 ms, beside first logins."""
    guess(scene, [ADDRESS], scene.size(190, 100))


def smtp_auth(scene: Scene) -> None:
    """The same by SMTP AUTH."""
    with Crowd() as crowd:
        crowd.connect(scene.ports["smtp"], ADDRESS, scene.size(190, 100))
        crowd.pump(2, lambda: all(peer.lines for peer in crowd.open))
        for number, peer in enumerate(crowd.open):
            word = base64.b64encode(b"\0user%d\0wrong %d" % (number % USERS, number))
            crowd.say(b"EHLO x\r\n" + b"AUTH PLAIN %b\r\n" % word * 5, [peer])
        crowd.pump(scene.size(10, 5), lambda: not crowd.open)


def accounts(scene: Scene) -> None:
    """An accounts file with as many users as the honest client needs for a first login each time."""
    hashed = PasswordHash.of(PASSWORD)
    users = "".join(f'user{number} = "{hashed}"\n' for number in range(USERS))
    file = scene.folder / "accounts.toml"
    file.write_text(f'[accounts.office]\n[users]\n{users}[[rules]]\naccount = "office"\n')
    file.chmod(0o600)
    scene.settings["ACCOUNTS_FILE"] = str(file)


LOCAL = {"POP3_LOGIN": "accounts", "SMTP_AUTH": "accounts"}
NEW_USERS = {"users": USERS, "auth": True}
SLOW = {"refusal_seconds": 0.5}
ATTACKS = (
    Attack("guess-backend", backend_passwords, {"POP3_LOGIN": "backend"}, SLOW),
    Attack("guess-spread", backend_spread, {"POP3_LOGIN": "backend"}, SLOW),
    Attack("guess-users", local_users, LOCAL, honest=NEW_USERS, prepare=accounts, allowed=FIRST_LOGIN_SECONDS),
    Attack("guess-smtp", smtp_auth, LOCAL, honest=NEW_USERS, prepare=accounts, allowed=FIRST_LOGIN_SECONDS),
)
