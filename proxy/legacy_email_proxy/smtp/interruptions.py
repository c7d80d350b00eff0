"""What can end a message or a session where it stands. A relay's ``send`` sees these pass through its content."""

from __future__ import annotations

from ..replies import SMTP, Reply

__all__ = ("Abandoned", "DeviceLost", "DeviceStalled", "Finished", "Interruption")


class Interruption(Exception):
    """The content will not come to its end, and whoever waits for a verdict on it gets none."""


class Abandoned(Interruption):
    """The device abandoned its message between two chunks; ``command`` is the line that did it, to be obeyed yet."""

    def __init__(self, command: bytes) -> None:
        super().__init__("the device abandoned its message")
        self.command = command


class Finished(Interruption):
    """The session ends, with a last ``reply`` if there is anybody to read it; ``verdict`` is for the log."""

    def __init__(self, verdict: str, reply: Reply | str | None = None) -> None:
        super().__init__(verdict)
        self.verdict = verdict
        self.reply = reply


class DeviceLost(Finished):
    """The device vanished before its message ended."""

    def __init__(self) -> None:
        super().__init__("dropped: the device left in the middle of its message")


class DeviceStalled(Finished):
    """The device is still connected but said nothing for too long."""

    def __init__(self) -> None:
        super().__init__("the device made no progress in its message", SMTP.TIMEOUT)
