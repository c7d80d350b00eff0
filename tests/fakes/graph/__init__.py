"""A fake of Microsoft Graph's mail interface, written from the published documentation.

    async with FakeGraph(tls=context) as server:
        server.script = {("sendMail", 1): Status(503, "ErrorServerBusy", retry_after=0), "value": Hang()}

`server` has the script, `sending` and `reading` the requests, `mailbox` the folders and messages, `web` the HTTP/1.1.
Each behaviour that is not plain HTTP names its source: [doc] is Microsoft's documentation (learn.microsoft.com/graph,
as `microsoftgraph/microsoft-graph-docs-contrib` has it), else the thread in which it was reported.
"""

from __future__ import annotations

from fakes.graph.mailbox import Item, Mailbox, Sent
from fakes.graph.server import Broken, Drop, FakeGraph, Hang, Instead, Status

__all__ = ("Broken", "Drop", "FakeGraph", "Hang", "Instead", "Item", "Mailbox", "Sent", "Status")
