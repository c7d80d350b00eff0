"""Reading and changing: pages, delta, MIME, move and delete."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from fakes.graph.mailbox import Item
from fakes.graph.state import Refusal, State, json_of
from fakes.graph.web import Request, Response

__all__ = ("Reading",)


class Reading(State):
    """What shows and changes messages that are there."""

    _delta_from: dict[str, tuple[int, int]]

    def _do_get(self, request: Request, user: str, identifier: str) -> Response:
        return Response(200, self._shown(self._item(identifier), request))

    def _do_value(self, request: Request, user: str, identifier: str) -> Response:
        """[doc] outlook-get-mime-message; Content-Length is not certain (msgraph-sdk-dotnet issue 564)."""
        item = self._item(identifier)
        if item.corrupt:
            raise Refusal(500, "ErrorMimeContentConversionFailed", "Failed to convert the item.")
        return Response(200, item.mime, {"Content-Type": "text/plain"})

    def _do_folder(self, request: Request, user: str, folder: str) -> Response:
        found = self._folder(folder)
        return Response(200, {"id": found, "totalItemCount": len(self.mailbox.held(found))})

    def _do_folders(self, request: Request, user: str, parent: str | None = None) -> Response:
        """[doc] user-list-mailfolders, mailfolder-list-childfolders, with $filter."""
        wanted = re.fullmatch(r"displayName eq '(.*)'", request.query.get("$filter", ""))
        above = self.mailbox.folders[self._folder(parent)] if parent else None
        name = wanted[1].replace("''", "'") if wanted else None
        found = [(identifier, each) for identifier, each in self.mailbox.children(above) if name in (None, each)]
        return Response(200, {"value": [{"id": identifier, "displayName": each} for identifier, each in found]})

    def _do_list(self, request: Request, user: str, folder: str) -> Response:
        """[doc] user-list-messages: $top up to 1000 and $skip; the default is 10."""
        held = sorted(self.mailbox.held(self._folder(folder)), key=lambda item: item.received)
        top, skip = int(request.query.get("$top", "10")), int(request.query.get("$skip", "0"))
        if not 1 <= top <= 1000:
            raise Refusal(400, "ErrorInvalidRequest", "$top is from 1 to 1000.")
        page = held[skip : skip + top]
        if any(item.corrupt for item in page):  # graph-docs-contrib issue 7758
            raise Refusal(500, "ErrorInternalServerError", "An internal server error occurred.")
        answer: dict[str, Any] = {"value": [self._shown(item, request) for item in page]}
        if skip + top < len(held):
            target = re.sub(r"[?&]\$skip=\d+|[?&]%24skip=\d+", "", request.target)
            answer["@odata.nextLink"] = f"https://localhost:{self.port}{target}&$skip={skip + top}"
        return Response(200, answer)

    def _do_delta(self, request: Request, user: str, folder: str) -> Response:
        """[doc] message-delta, delta-query-messages: pages by nextLink, then a deltaLink; removed ones are marked."""
        found = self._folder(folder)
        if "$expand" in request.query and not self.delta_takes_expand:
            raise Refusal(400, "ErrorInvalidRequest", "$expand is not supported here.")
        if token := request.query.get("$skiptoken") or request.query.get("$deltatoken"):
            if token not in self._delta_from:
                raise Refusal(410, "SyncStateNotFound", "The sync state generation is not found.")
            since, until = self._delta_from[token]
            request.query |= json.loads(base64.urlsafe_b64decode(token.partition(".")[2]))
            if "$deltatoken" in request.query:
                until = len(self.mailbox.log)
        else:
            since, until = 0, len(self.mailbox.log)
        size = re.search(r"odata\.maxpagesize=(\d+)", request.headers.get("prefer", ""))
        page = int(size[1]) if size else self.page
        changed: dict[int, tuple[str, Item]] = {}
        place = since
        while place < until and len(changed) < page:
            where, what, item = self.mailbox.log[place]
            if where == found:
                changed.pop(item.number, None)
                changed[item.number] = what, item
            place += 1
        value = []
        for what, item in changed.values():
            if item.folder == found and item in self.mailbox.items:
                if item.corrupt:
                    raise Refusal(500, "ErrorInternalServerError", "An internal server error occurred.")
                value.append(self._shown(item, request, sized=self.delta_has_sizes))
            elif since or what == "gone":
                identifier = self._shown(item, request)["id"]
                value.append({"id": identifier, "@removed": {"reason": "deleted"}})
        encoded = {name: text for name, text in request.query.items() if name in ("$select", "$expand")}
        kept = base64.urlsafe_b64encode(json.dumps(encoded).encode()).decode()
        token = f"{len(self._delta_from)}.{kept}"
        self._delta_from[token] = (place, until)
        name, key = ("nextLink", "skiptoken") if place < until else ("deltaLink", "deltatoken")
        link = f"{self.url}/users/{user}/mailFolders/{folder}/messages/delta?${key}={token}"
        return Response(200, {"value": value, f"@odata.{name}": link})

    def _do_patch(self, request: Request, user: str, identifier: str) -> Response:
        item, given = self._item(identifier), json_of(request)
        item.categories = given.get("categories", item.categories)
        item.message |= given
        self.mailbox.touch(item)
        return Response(200, self._shown(item, request))

    def _do_delete(self, request: Request, user: str, identifier: str) -> Response:
        """[doc] message-delete: 204; the message goes to Deleted Items, or away if it is there."""
        item = self._item(identifier)
        if item.folder == "deleteditems" or item.is_draft:
            self.mailbox.remove(item)
        else:
            self.mailbox.move(item, "deleteditems")
        return Response(204)

    def _do_permanentDelete(self, request: Request, user: str, identifier: str) -> Response:
        """[doc] message-permanentdelete: 204; in the global cloud only."""
        if not self.permanent_delete:
            raise Refusal(400, "BadRequest", "Resource not found for the segment 'permanentDelete'.")
        self.mailbox.remove(self._item(identifier))
        return Response(204)

    def _do_move(self, request: Request, user: str, identifier: str) -> Response:
        """[doc] message-move: 201 with the message."""
        item = self._item(identifier)
        self.mailbox.move(item, self._folder(json_of(request)["destinationId"]))
        return Response(201, self._shown(item, request))
