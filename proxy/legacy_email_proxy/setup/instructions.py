"""What to do with the files that were written: what to type into the device, and how to start the proxy."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
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
    address = own_address()
    yield "At the device:"
    if is_open(draft, RELAY):
        login = "no login" if settings["SMTP_AUTH"] == "off" else "any user, any password"
        yield f"  mail server for sending (SMTP)   {address}, port {settings['SMTP_BIND_PORT']}, no encryption, {login}"
        shown = sender or mailbox(draft)
        if settings["SMTP_SENDER"]:
            yield f"  its sender address               any; mail goes out as {settings['SMTP_SENDER']}"
        elif shown and not draft.accounts:
            yield f"  its sender address               {shown}"
    if is_open(draft, MAILDROP):
        login = "any user, any password" if settings["POP3_LOGIN"] == "any" else "the user's own login"
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
    mounted = {name: path for name, path in _named(draft).items() if Path(path).is_absolute()}
    made = {each.path.name: str(each.path) for each in files[:-1]}
    secrets = dict(made) | {Path(path).name: path for path in mounted.values()}
    here = in_image()
    for name, path in secrets.items():
        # What the container's user can read, whoever owns the file.
        yield f"  podman secret create --replace {shlex.quote(name)} {shlex.quote(f'./{name}' if here else path)}"
    given = "".join(f" --secret {shlex.quote(f'{name},target={path}')}" for name, path in secrets.items())
    ports = [settings["SMTP_BIND_PORT"]] if is_open(draft, RELAY) else []
    ports += [settings["POP3_BIND_PORT"]] if is_open(draft, MAILDROP) else []
    published = "".join(f" -p {own_address()}:{port}:{port}" for port in ports)
    env = f"./{files[-1].path.name}" if here else str(files[-1].path)
    yield "  podman run -d --name mail-proxy --restart=always --read-only --cap-drop all --cap-add NET_BIND_SERVICE \\"
    yield f"     {published} -v mail-proxy:{_IMAGE_STATE_DIR} \\"
    yield f"      --env-file {shlex.quote(env)}{given} localhost/legacy-email-proxy"


def _named(draft: Draft) -> Mapping[str, str]:
    """All files that are named by the settings, and have to be in the container too."""
    named: dict[str, str] = {}
    for values in (draft.values, *draft.accounts.values()):
        named |= {name: path for name, path in values.items() if name.endswith("_FILE")}
    return named


def _left_out(draft: Draft) -> Iterator[str]:
    if draft.left_out:
        yield ""
        yield "Not taken over:"
        yield from (f"  * {sentence}" for sentence in draft.left_out)


def in_image() -> bool:
    """Whether this runs in the project's image, where paths and ports are not those of the machine."""
    return in_container() and os.environ.get("STATE_DIR") == _IMAGE_STATE_DIR


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
