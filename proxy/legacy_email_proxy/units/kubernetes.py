"""The file for Kubernetes: two replicas, of which one at a time may go."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ..build import NONE
from ..contracts import Secret, SettingsMistake
from ..settings import Settings
from .facts import CREDENTIALS, NAME, STATE_DIR, Facts, UnitFile, filled, spool_is_shared

__all__ = ("kubernetes",)

_PROVIDER_HTTPS = 443
_POSTGRESQL = 5432


def kubernetes(facts: Facts) -> list[UnitFile]:
    """One file, with several objects."""
    settings = facts.settings
    spooled = settings["RELAY_PLUGIN"] == "spool"
    if spooled and not spool_is_shared(settings):
        raise SettingsMistake(
            "SPOOL_URL: two replicas can not share a file; give it a PostgreSQL database (proxy/docs/postgresql.md)"
        )
    if facts.folders:
        raise SettingsMistake("RELAY_PLUGIN: a Maildir belongs to one machine, and here two replicas would need it")
    secrets = {**facts.secrets, **facts.files}
    ports = [(each.name, each.port) for each in facts.devices]
    text = filled(
        "kubernetes.template",
        name=NAME,
        image=json.dumps(facts.image),
        secret_options="".join(f" \\\n#        --from-file={name}={path or name}" for name, path in secrets.items())
        or "\n#    (none are needed now)",
        optional=json.dumps(not secrets),
        settings="\n".join(f"  {name}: {json.dumps(text)}" for name, text in sorted(_plain(facts).items())),
        why_two="The spool is in PostgreSQL: each takes mail, and all deliver it."
        if spooled
        else "Neither keeps mail: a device that loses one comes back to the other.",
        ready=json.dumps(["legacy-email-proxy", "healthcheck", *([] if spooled else ["--ready"])]),
        why_ready="It takes mail also while the provider is away, so that does not count."
        if spooled
        else "Does the provider answer? If not, the other replica may have more luck.",
        stop_seconds=facts.stop_seconds + 5,
        state_dir=STATE_DIR,
        credentials=CREDENTIALS,
        state_words="The mail that waits is in the database; what is here may go with the replica."
        if spooled
        else "What is here may go with the replica.",
        container_ports="\n".join(f"            - {{name: {name}, containerPort: {port}}}" for name, port in ports),
        service_ports="\n".join(f"    - {{name: {name}, port: {port}, targetPort: {name}}}" for name, port in ports),
        networks="\n".join(
            f"        - ipBlock: {{cidr: {json.dumps(str(each))}}}" for each in settings["ALLOWED_NETWORKS"]
        ),
        policy_ports="\n".join(f"        - {{port: {port}, protocol: TCP}}" for _, port in ports),
        and_database=" and the database" if spooled else "",
        outside="\n".join(f"        - {{port: {port}, protocol: TCP}}" for port in sorted({*_outside(settings)})),
    )
    return [UnitFile(".", f"{NAME}.yaml", text)]


def _plain(facts: Facts) -> dict[str, str]:
    """All of them: an env file is not at hand in the cluster. The listeners are on all addresses of the pod."""
    bound = {each.bind_variable for each in facts.devices}
    return {name: text for name, text in facts.plain.items() if name not in bound}


def _outside(settings: Settings) -> Iterator[int]:
    """The ports to which the service connects."""
    if settings["MAILDROP_PLUGIN"] not in (NONE, "graph"):
        yield settings["BACKEND_IMAP_PORT"]
    if settings["RELAY_PLUGIN"] not in (NONE, "graph") and settings["SPOOL_RELAY"] != "graph":
        yield settings["BACKEND_SMTP_PORT"]
    if settings["OAUTH2_GRANT"] or settings["ALERT_WEBHOOK_URL"] or "graph" in _plugins(settings):
        yield _PROVIDER_HTTPS
    databases: list[Secret | None] = [settings["STATE_URL"]]
    if settings["RELAY_PLUGIN"] == "spool":
        databases.append(settings["SPOOL_URL"])
    for url in filter(None, databases):
        found = re.search(r"^\w+://[^/?]*:([0-9]+)(?:[/?]|\Z)|\bport=([0-9]+)", url.reveal())
        yield int(found[1] or found[2]) if found else _POSTGRESQL


def _plugins(settings: Settings) -> set[str]:
    return {settings[name] for name in ("MAILDROP_PLUGIN", "RELAY_PLUGIN", "SPOOL_RELAY")}
