import os
from uuid import uuid4

from anyio.to_thread import run_sync

from legacy_email_proxy.contracts import Message, Setting, WholeMessageRelay


class ArchiveRelay(WholeMessageRelay):
    """Files every message in a folder."""

    settings = (Setting("ACME_ARCHIVE_PATH", "path", "/srv/archive", "The folder in which every message is filed."),)

    async def deliver(self, message: Message) -> None:
        await run_sync(self._file, message.content)  # writing to a disk blocks, so a thread does it

    def _file(self, content: bytes) -> None:
        folder = self.context.settings["ACME_ARCHIVE_PATH"]
        part = folder / f"{uuid4()}.part"
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.rename(part.with_suffix(".eml"))
        directory = os.open(folder, os.O_RDONLY)
        os.fsync(directory)  # the file's name, too, outlives a power cut
        os.close(directory)
