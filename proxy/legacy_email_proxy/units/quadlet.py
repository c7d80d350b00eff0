"""The quadlet: a file of which podman makes a unit for systemd."""

from __future__ import annotations

from .facts import CREDENTIALS, NAME, STATE_DIR, Facts, UnitFile, filled, inside, published
from .systemd import quoted

__all__ = ("quadlet",)


def quadlet(facts: Facts) -> list[UnitFile]:
    """One file, for one container."""
    secrets = {**facts.secrets, **facts.files}
    if facts.env_file:
        secrets = {name: path for name, path in secrets.items() if path}
    # Podman makes words of a command of them, in which systemd would look for variables.
    variables = [f"Environment={quoted(f'{name}={text}').replace('$', '$$')}" for name, text in inside(facts).items()]
    text = filled(
        "quadlet.template",
        name=NAME,
        image=facts.image,
        state_dir=STATE_DIR,
        create_secrets="\n".join(f"#    podman secret create {name} {path or '-'}" for name, path in secrets.items())
        or "#    none are needed.",
        ports="\n".join(f"PublishPort={each}" for each in published(facts)),
        mounts="\n".join(f"Volume={each}:{each}" for each in facts.folders),
        settings="\n".join((*([f"EnvironmentFile={facts.env_file}"] if facts.env_file else []), *variables, "")),
        secrets="\n".join((*map(_secret, secrets), "")) if secrets else "",
        stop_seconds=facts.stop_seconds,
    )
    return [UnitFile("/etc/containers/systemd", f"{NAME}.container", text)]


def _secret(name: str) -> str:
    """As a file that the image's user alone can read; the image looks for it under the variable's name."""
    return f"Secret={name},type=mount,target={CREDENTIALS}/{name},uid=10110,gid=10110,mode=0400"
