"""What is answered to a request that is not fulfilled: problem details (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson

MEDIA_TYPE = b"application/problem+json"

Headers = tuple[tuple[bytes, bytes], ...]


class Problem(Exception):  # noqa: N818 -- the word of RFC 9457
    """Why a request, or a message of one, got no 204.

    `field` names what in the request is at fault. `whole` says that it is the login, so that
    no message of the same request can fare better.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        headers: Headers = (),
        whole: bool = False,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.headers = headers
        self.whole = whole

    def again(self) -> Problem:
        """The same, to be raised without what an earlier one has passed through."""
        return Problem(
            self.status, self.detail, field=self.field, headers=self.headers, whole=self.whole
        )

    def members(self, message_id: object = None) -> dict[str, Any]:
        """The JSON object that describes it."""
        found: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.field is not None:
            found["field"] = self.field
        if message_id is not None:
            found["message_id"] = message_id
        return found

    def body(self, message_id: object = None) -> bytes:
        """The same as text, with the id to repeat the message by, if it has one."""
        return orjson.dumps(self.members(message_id), option=orjson.OPT_APPEND_NEWLINE)


def invalid(field: str, why: str) -> Problem:
    """A field that is no value of its property."""
    return Problem(400, f"invalid value for {field}: {why}", field=field)


def retry_after(seconds: float) -> Headers:
    """When it is worth trying again."""
    return ((b"retry-after", b"%d" % max(1, round(seconds))),)
