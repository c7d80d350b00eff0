"""Prometheus: scrapes a proxy and judges the alert rules, as its user's own would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode
from urllib.request import urlopen

from realservers.processes import ASK_SECONDS, Daemon, on_free_ports, require, short_folder
from realservers.server import Server

__all__ = ("Prometheus", "promtool")

REASON = "reads /metrics and judges the alert rules"

_CONFIGURATION = {
    # As often as it can, so that a test need not wait.
    "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
}


def promtool() -> str:
    """The program that checks and tests rules."""
    return require("promtool", REASON)


class Prometheus(Server):
    """One server on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.port = 0

    @classmethod
    def start(cls, targets: Sequence[str], rules: Path, **scraping: Any) -> Self:
        """Start it; ``scraping`` is more of the job's configuration, such as ``basic_auth``."""
        program = require("prometheus", REASON)
        self = cls()
        with ExitStack() as stack:
            folder = stack.enter_context(short_folder("prometheus-"))
            job = {"job_name": "legacy-email-proxy", "static_configs": [{"targets": list(targets)}], **scraping}
            # YAML takes JSON.
            configuration = {**_CONFIGURATION, "rule_files": [str(rules)], "scrape_configs": [job]}
            (folder / "prometheus.yml").write_text(json.dumps(configuration))

            def start_on(ports: list[int]) -> Daemon:
                self.port = ports[0]
                return Daemon.start(
                    [
                        program,
                        f"--config.file={folder}/prometheus.yml",
                        f"--storage.tsdb.path={folder}/data",
                        f"--web.listen-address=127.0.0.1:{self.port}",
                    ],
                    log_file=folder / "log",
                    started="Server is ready to receive web requests",
                    ports=ports,
                )

            self._started(on_free_ports(1, start_on), stack)
        return self

    def _get(self, path: str, **arguments: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(arguments)}"
        with urlopen(url, timeout=ASK_SECONDS) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> float | None:
        """The expression's value now, if it has one."""
        found = self._get("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    def firing(self) -> dict[str, Mapping[str, str]]:
        """The alerts that fire, with their annotations."""
        alerts = self._get("alerts")["alerts"]
        return {one["labels"]["alertname"]: one["annotations"] for one in alerts if one["state"] == "firing"}

    def rules(self) -> dict[str, str]:
        """Each rule's health."""
        return {rule["name"]: rule["health"] for group in self._get("rules")["groups"] for rule in group["rules"]}
