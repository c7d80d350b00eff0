"""The file for docker compose and podman-compose."""

from __future__ import annotations

import json

from .facts import CREDENTIALS, NAME, STATE_DIR, Facts, UnitFile, filled, inside, published

__all__ = ("compose",)


def compose(facts: Facts) -> list[UnitFile]:
    """One file, with one service."""
    secrets = {**facts.secrets, **facts.files}
    if facts.env_file:
        secrets = {name: path for name, path in secrets.items() if path}
    paths = {name: path or f"./{name}" for name, path in secrets.items()}
    text = filled(
        "compose.template",
        name=NAME,
        image=_quoted(facts.image),
        state_dir=STATE_DIR,
        stop_seconds=facts.stop_seconds,
        create_secrets="\n".join(f"#    chown 10110 {path} && chmod 400 {path}" for path in paths.values())
        or "#    none are needed.",
        ports="\n".join(f"      - {_quoted(each)}" for each in published(facts)),
        mounts="\n".join(
            f"      - {_quoted(each)}"
            for each in (
                *(f"{folder}:{folder}" for folder in facts.folders),
                *(f"{path}:{CREDENTIALS}/{name}:ro" for name, path in paths.items()),
            )
        ),
        settings=_settings(facts),
    )
    return [UnitFile(".", "compose.yaml", text)]


def _settings(facts: Facts) -> str:
    lines = [f"    env_file: {_quoted(facts.env_file)}"] if facts.env_file else []
    if variables := inside(facts):
        lines += ["    environment:", *(f"      {name}: {_quoted(text)}" for name, text in variables.items())]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """A string of YAML, in which compose finds no variable."""
    return json.dumps(text, ensure_ascii=False).replace("$", "$$")
