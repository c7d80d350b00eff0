"""What becomes of a message that a POP3 client deleted: Graph's ways to remove, move and mark it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .client import Body, Graph, quoted
from .verdicts import GraphRefusal, is_gone

__all__ = ("CATEGORY", "DELETIONS", "remove")

CATEGORY = "Deleted by POP3"
"""What ``GRAPH_DELETE=flag`` marks a message with; it shows in Outlook."""


async def remove(graph: Graph, identifier: str) -> None:
    """Remove it for good; where there is no such request (national clouds), to Deleted Items."""
    path = f"/messages/{quoted(identifier)}"
    try:
        await graph.ask("permanentDelete", "POST", f"{path}/permanentDelete", good=(204,), safe=True)
    except GraphRefusal as refusal:
        if is_gone(refusal):
            return
        if refusal.status not in (400, 404, 405, 501) or "segment" not in f"{refusal.code} {refusal.message}":
            raise
        await _unless_gone(graph.ask("delete", "DELETE", path, good=(204,)))


async def _to_trash(graph: Graph, identifier: str) -> None:
    body = Body.of_json({"destinationId": "deleteditems"})
    path = f"/messages/{quoted(identifier)}/move"
    await _unless_gone(graph.ask("move", "POST", path, body, good=(200, 201), safe=True))


async def _mark(graph: Graph, identifier: str) -> None:
    path = f"/messages/{quoted(identifier)}"
    try:
        shown = await graph.ask("its categories", "GET", f"{path}?$select=categories")
        categories = [str(each) for each in shown.get("categories") or ()]
        if CATEGORY not in categories:
            body = Body.of_json({"categories": [*categories, CATEGORY]})
            await graph.ask("a category", "PATCH", path, body, safe=True)
    except GraphRefusal as refusal:
        if not is_gone(refusal):
            raise


async def _keep(graph: Graph, identifier: str) -> None:
    pass


async def _unless_gone(asking: Awaitable[object]) -> None:
    try:
        await asking
    except GraphRefusal as refusal:
        if not is_gone(refusal):
            raise


DELETIONS: dict[str, Callable[[Graph, str], Awaitable[None]]] = {
    "expunge": remove,
    "trash": _to_trash,
    "flag": _mark,
    "keep": _keep,
}
"""``GRAPH_DELETE`` → what is done."""
