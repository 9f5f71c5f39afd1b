"""From received bytes to replies and to requests that came back: no socket, no waiting.

Each is handed on as soon as it is whole, and forgotten: whatever a stranger sends to a channel, no
more than one message of it is held.
"""

from __future__ import annotations

from pg_amqp_py.wire.consume.reader import DeliveryReader
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.methods import BASIC_RETURN, METHOD_FRAME, Method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pg_amqp_py.wire.consume.delivery import Delivery
    from pg_amqp_py.wire.frames import Frame

_START = 7
"""Bytes of a frame before its payload."""
_RETURN = BASIC_RETURN.to_bytes(4)


class ReplyReader(DeliveryReader):
    """Cuts a received stream into messages, for `on_reply` and `on_return`, and all other frames.

    Of a message that came back (Basic.Return), `on_return` gets the broker's word for why.
    """

    def __init__(
        self, on_reply: Callable[[Delivery], None], on_return: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._on_reply = on_reply
        self._on_return = on_return
        self._returned: str | None = None
        """Why, of the message that is coming back."""
        self._counted = False
        """Whether RabbitMQ counts replies, as it does from 4.2 on; before, each has the tag that a
        message from a queue would have, which says nothing."""

    def feed(self, data: bytes) -> Iterator[tuple[int, Frame]]:
        """The frames that `data` completes, each with its channel, but for messages."""
        yield from super().feed(data)
        for delivery in self.take():
            self._on_reply(delivery)

    def _take_whole(self, data: bytes, at: int) -> int:
        if not self._counted:
            # As if each were the first.
            self._base = self.last
        return super()._take_whole(data, at)

    def _read_envelope(self, method: bytes) -> tuple[int, bool, bytes, bytes]:
        if self._start is not None:
            at = len(self._start)
            tag = int.from_bytes(method[at : at + 8])
            self._counted = tag > 1
            self._base = self.last + 1 - tag
        return super()._read_envelope(method)

    def _takes(self, kind: int, data: bytes, at: int, after: int) -> bool:
        index = at + _START
        if kind != METHOD_FRAME or data[index : index + 4] != _RETURN:
            return super()._takes(kind, data, at, after)
        if self._envelope is not None:
            raise ConnectionLostError("received a method where content was due")
        code, text = Method(BASIC_RETURN, data[index + 4 : after - 1]).reply()
        self._returned = f"{text} ({code})"
        # Its content comes like that of a delivery.
        self._envelope = 0, False, b"", b""
        self._unfinished += after - at
        return True

    def _finish(self, properties: bytes) -> None:
        if self._returned is None:
            super()._finish(properties)
        else:
            self._on_return(self._returned)
            self._drop_unfinished()

    def _drop_unfinished(self) -> None:
        super()._drop_unfinished()
        self._returned = None
