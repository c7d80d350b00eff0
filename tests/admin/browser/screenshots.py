"""Takes a picture of each page of the demo: `python tests/admin/browser/screenshots.py FOLDER`.

In both schemes, as wide as a phone and as a desk's screen. `overview-light-1280.png` is also made small enough for
README, as `page.png`. Wants Chromium, and pngquant for the last.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from playwright.sync_api import sync_playwright

from realservers.processes import require

PAGES = {
    "overview": "overview",
    "fortnight": "overview?period=fortnight",
    "devices": "devices",
    "device": "devices/192.0.2.24",
    "trace": "devices/192.0.2.24/trace",
    "messages": "messages",
    "trouble": "messages?verdict=trouble",
    "nothing": "messages?recipient=nobody",
    "message": "messages/1",
    "spool": "spool",
    "dead": "spool/message/3",
    "accounts": "accounts",
    "account": "accounts/of/default",
    "settings": "settings",
    "missing": "no-such-page",
}
COLOURS = 64


@contextmanager
def demo() -> Iterator[str]:
    """The address of the demo's page."""
    command = [sys.executable, "-m", "legacy_email_proxy", "demo", "--page", "--pop3-port", "0", "--smtp-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            found = next(filter(None, (re.search(r"http://\S+", line) for line in process.stdout)))
            # The last of what the demo sends by itself.
            next(line for line in process.stderr if "notification failed for good" in line)
            yield found[0]
        finally:
            process.kill()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    chromium = require("chromium", "takes the pictures")
    with demo() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme, width in product(("light", "dark"), (360, 1280)):
            with browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800}) as context:  # type: ignore[arg-type]
                page = context.new_page()
                for name, path in PAGES.items():
                    page.goto(address + path)
                    page.screenshot(path=folder / f"{name}-{scheme}-{width}.png", full_page=True)
        with browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 960}) as context:
            page = context.new_page()
            # Alerts look once a minute, and only then the overview says what is wrong with the spool.
            while not page.goto(address + "overview") or not page.get_by_text("Something is wrong").count():
                page.wait_for_timeout(1000)
            page.screenshot(path=folder / "page.png")
        browser.close()
    pngquant = require("pngquant", "makes the picture small")
    subprocess.run([pngquant, "--force", "--ext", ".png", "--nofs", str(COLOURS), folder / "page.png"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
