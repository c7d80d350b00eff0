"""What to do with the files that were written: what to type into the device, and how to start the proxy."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ..contracts import in_container
from ..settings import read
from .draft import Draft
from .files import NewFile
from .questions import MAILDROP, RELAY, is_open, mailbox

__all__ = ("in_image", "instructions", "obstacle")

_IMAGE_STATE_DIR = "/var/lib/legacy-email-proxy"
"""Where the image has its volume."""
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (compared, not bound)
_OUTSIDE = ("192.0.2.1", 9)
"""An address for documentation (RFC 5737). Nothing is sent there."""


def instructions(draft: Draft, files: Sequence[NewFile], *, sender: str = "") -> str:
    """The text that ends the set-up."""
    return "\n".join([*_written(files), "", *_device(draft, sender), "", *_start(draft, files), *_left_out(draft)])


def _written(files: Sequence[NewFile]) -> Iterator[str]:
    yield "Written, readable for their owner only:"
    yield from (f"  {each.path}" for each in files)


def _device(draft: Draft, sender: str) -> Iterator[str]:
    settings = read(draft.environment())
    yield "At the device:"
    if is_open(draft, RELAY):
        login = "no login" if settings["SMTP_AUTH"] == "off" else "any user, any password"
        address = _address(draft, "SMTP")
        yield f"  mail server for sending (SMTP)   {address}, port {settings['SMTP_BIND_PORT']}, no encryption, {login}"
        shown = sender or mailbox(draft)
        if settings["SMTP_SENDER"]:
            yield f"  its sender address               any; mail goes out as {settings['SMTP_SENDER']}"
        elif shown and not draft.accounts:
            yield f"  its sender address               {shown}"
    if is_open(draft, MAILDROP):
        login = "any user, any password" if settings["POP3_LOGIN"] == "any" else "the user's own login"
        address = _address(draft, "POP3")
        yield f"  mail server for reading (POP3)   {address}, port {settings['POP3_BIND_PORT']}, no encryption, {login}"


def _start(draft: Draft, files: Sequence[NewFile]) -> Iterator[str]:
    env = shlex.quote(str(files[-1].path))
    consent = any(
        values.get("OAUTH2_GRANT") in ("device_code", "authorization_code")
        for values in (draft.values, *draft.accounts.values())
    )
    if not in_image():
        yield "Start it here (the first line gives the settings to the commands below it):"
        yield f"  set -a; . {env}; set +a"
        yield f"  {_program()} check"
        yield f"  {_program()}"
        yield "Or print the file that starts it at each boot, for systemd, quadlet, compose or kubernetes:"
        yield f"  {_program()} unit systemd --env-file {env}"
    here = " in the folder of these files, on the machine itself" if in_image() else ""
    yield f"With podman{here} (compose and docker: see proxy/docs/containers.md):"
    yield from _podman(draft, files)
    if consent:
        state = read(draft.environment())["STATE_DIR"]
        yield f"The consent is kept in {state}. A service that has another STATE_DIR, as in a container without this"
        yield "one's volume, needs its own: run `legacy-email-proxy authorize` there."


def _program() -> str:
    """How this program is called: its name where that is found, else the path by which it was called now."""
    name = "legacy-email-proxy"
    called = Path(sys.argv[0])
    found = shutil.which(name)
    if called.name != name or (found and called.exists() and called.samefile(found)):
        return name
    return shlex.quote(str(called.absolute()))


def _podman(draft: Draft, files: Sequence[NewFile]) -> Iterator[str]:
    settings = read(draft.environment())
    here = in_image()
    secrets: dict[str, str] = {}
    for path in dict.fromkeys([*(str(each.path) for each in files[:-1]), *_named(draft)]):
        name = Path(path).name
        while name in secrets:
            name += "-2"
        secrets[name] = path
        # A secret can be read by the container's user, whoever owns the file.
        shown = f"./{Path(path).name}" if here else path
        yield f"  podman secret create {shlex.quote(name)} {shlex.quote(shown)}"
    published = ""
    for leg, prefix in ((RELAY, "SMTP"), (MAILDROP, "POP3")):
        if is_open(draft, leg):
            port, address = settings[f"{prefix}_BIND_PORT"], _address(draft, prefix)
            published += f" -p {address}:{port}:{port}"
            # Inside, the container has another address, and none of the machine's.
            published += f" -e {prefix}_BIND_ADDR=0.0.0.0" if f"{prefix}_BIND_ADDR" in draft.values else ""
    env = f"./{files[-1].path.name}" if here else str(files[-1].path)
    yield "  podman run -d --name mail-proxy --restart=always --read-only --cap-drop all --cap-add NET_BIND_SERVICE \\"
    yield f"     {published} -v mail-proxy:{_IMAGE_STATE_DIR} \\"
    for name, path in secrets.items():
        yield f"      --secret {shlex.quote(f'{name},target={path}')} \\"
    yield f"      --env-file {shlex.quote(env)} localhost/legacy-email-proxy"


def _named(draft: Draft) -> list[str]:
    """All files that are named by the settings, and have to be in the container too."""
    every = [pair for values in (draft.values, *draft.accounts.values()) for pair in values.items()]
    return [path for name, path in every if name.endswith("_FILE") and Path(path).is_absolute()]


def _left_out(draft: Draft) -> Iterator[str]:
    if draft.left_out:
        yield ""
        yield "Not taken over:"
        yield from (f"  * {sentence}" for sentence in draft.left_out)


def in_image() -> bool:
    """Whether this runs in the project's image, where paths and ports are not those of the machine."""
    return in_container() and os.environ.get("STATE_DIR") == _IMAGE_STATE_DIR


def _address(draft: Draft, prefix: str) -> str:
    """Where a device finds the leg: the address that the settings name, or this machine's."""
    addresses = read(draft.environment())[f"{prefix}_BIND_ADDR"]
    return next((each for each in addresses if each not in _EVERYWHERE), "") or own_address()


def own_address() -> str:
    """The address of this machine in its network, as far as it tells."""
    if not in_image():
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_OUTSIDE)
            return str(probe.getsockname()[0])
    return "ADDRESS-OF-THIS-MACHINE"


def obstacle(port: int) -> str:
    """Why a service that this user starts could not listen on the port; ``""`` if it could."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            listener.listen()
        except PermissionError:
            return f"you may not open port {port}: root, systemd and podman may"
        except OSError:
            return f"another program has port {port} on this machine: a mail server?"
    return ""
