"""The thread that publishes the messages of one broker, in the order of the notifications.

What the broker does not take is handed on at once, to the outbox or to be dropped: a listener must
never stop reading, and what is not read is kept by PostgreSQL for the whole cluster.
"""

from __future__ import annotations

import queue
import threading
import time
from array import array
from collections.abc import Callable, Set

import structlog

from pg_amqp_daemon.listen.listener import Listener, Message
from pg_amqp_daemon.listen.tally import Tally
from pg_amqp_daemon.runtime.broker_connection import BrokerConnection
from pg_amqp_daemon.runtime.logs import name_of
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.channel import PublishingChannel, connect_publisher
from pg_amqp_py.wire.encode import Encoder, Series
from pg_amqp_py.wire.errors import ConnectionLostError, MessageError, StalledError
from pg_amqp_py.wire.fields import EXCHANGE
from pg_amqp_py.wire.pump import Patience, write
from pg_amqp_py.wire.waves import Wave, missing_exchange

Pending = dict[str, Message]
"""Messages that are neither published nor diverted yet, by message_id."""

_TICK = 0.25
"""Seconds between looks at a connection that nobody uses."""
_PATIENCE = 5.0
"""Seconds without a confirm after which messages go another way."""
_DIVERSION = 10.0
"""Seconds for which all of their rows do then."""
_GRACE = 1.0
"""Seconds in which a connection that was lost may be had again."""
_STALLED = "a queue does not confirm messages, or the broker does not answer"
_MOST = 5_000
_MOST_BYTES = 8 << 20
"""What is published at once, at most."""
_MOST_HELD = 100_000
_MOST_HELD_BYTES = 64 << 20
"""What may wait to be published."""


class AbortedError(Exception):
    """It must end now."""


class Courier:
    """Publishes what is put, until it is stopped; `divert` gets what the broker does not take.

    `name` is what the broker shows of its connection.
    """

    def __init__(
        self, broker_id: int, name: str, tally: Tally, divert: Callable[[list[Message], str], None]
    ) -> None:
        self._tally = tally
        self._divert = divert
        self._todo: queue.SimpleQueue[list[Message] | None] = queue.SimpleQueue()
        self._held = self._held_bytes = 0
        self._guard = threading.Lock()
        self._stalled: dict[int, float] = {}
        """Until when messages of a row go another way, since a queue has not confirmed the last."""
        self._stopping = threading.Event()
        self._aborting = threading.Event()
        self._refusals: dict[int, str] = {}
        """What the broker had against the last message of a row."""
        self._log = structlog.get_logger().bind(broker_id=broker_id)
        self._broker = BrokerConnection(
            name,
            connect_publisher,
            on_open=lambda _channel: None,
            on_wait=self._on_wait,
            stopping=self._stopping,
            log=self._log,
        )
        self._thread = threading.Thread(target=self._work, name=f"courier-{broker_id}", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """What keeps messages from being published now; None if nothing does."""
        with self._guard:
            return self._broker.trouble or next(iter(self._refusals.values()), None)

    @property
    def takes(self) -> bool:
        """Whether the broker takes messages, as far as is known: of a row, it may refuse them."""
        return self._broker.trouble is None

    @property
    def alive(self) -> bool:
        """Whether its thread works."""
        return self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """Whether it works no more."""
        return not self._thread.is_alive()

    def configure(self, addresses: list[Address]) -> None:
        """Use these hosts from the next connection on, and no connection to any other."""
        self._broker.addresses = addresses

    def keep(self, listener_ids: Set[int]) -> None:
        """Other rows are gone."""
        with self._guard:
            for listener_id in self._refusals.keys() - listener_ids:
                del self._refusals[listener_id]

    def put(self, messages: list[Message]) -> None:
        """Publish these behind what was put before; never waits."""
        size = sum(len(message.body) for message in messages)
        with self._guard:
            full = self._held >= _MOST_HELD or self._held_bytes + size > _MOST_HELD_BYTES
            if not full:
                self._held += len(messages)
                self._held_bytes += size
        if full:
            self._divert(messages, "notifications come faster than the broker confirms them")
        else:
            self._todo.put(messages)

    def unblock(self) -> None:
        """It waits for no database."""

    def stop(self) -> None:
        """Publish what was put, and end."""
        self._stopping.set()
        self._todo.put(None)

    def abort(self) -> None:
        """End at once."""
        self._aborting.set()
        self.stop()

    def join(self, timeout: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout)

    # -- in the thread -----------------------------------------------------------------

    def _work(self) -> None:
        while (messages := self._next()) is not None:
            try:
                self._publish(messages)
            except AbortedError:
                self._broker.drop()
            except Exception as error:
                # A defect of ours: nobody knows what was published.
                self._log.exception("listen failed", error=name_of(error))
                self._broker.drop()
        self._broker.close()

    def _next(self) -> list[Message] | None:
        """What comes next, as much of it as there is; None: the end."""
        while True:
            try:
                messages = self._todo.get(timeout=_TICK)
                break
            except queue.Empty:
                self._broker.look_after(may_open=not self._stopping.is_set())
        if messages is None:
            return None
        size = sum(message.size for message in messages)
        found = list(messages)
        while len(found) < _MOST and size < _MOST_BYTES:
            try:
                more = self._todo.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._todo.put(None)
                break
            found += more
            size += sum(message.size for message in more)
        with self._guard:
            self._held -= len(found)
            self._held_bytes -= sum(len(message.body) for message in found)
        return found

    def _on_wait(self) -> None:
        if self._aborting.is_set():
            raise AbortedError

    def _publish(self, messages: list[Message]) -> None:
        """Have each message published or diverted."""
        pending = {message.message_id: message for message in messages}
        why = "the broker is not connected"
        try:
            why = self._try(pending)
        finally:
            if pending:
                self._divert(list(pending.values()), why)

    def _try(self, pending: Pending) -> str:
        """Publish what can be: it is pending no more. What is against the rest."""
        self._broker.listen()
        deadline = time.monotonic() + (_GRACE if self._broker.connected else 0.0)
        why = ""
        self._pass_by(pending)
        while pending:
            channel = self._broker.established()
            if channel is not None and channel.blocked is not None:
                return f"the broker blocks publishers: {channel.blocked}"
            if channel is not None:
                why = self._write(pending, channel)
            elif time.monotonic() >= deadline:
                return self._broker.trouble or why
            if self._aborting.is_set():
                break
        return why

    def _write(self, pending: Pending, channel: PublishingChannel) -> str:
        """Write it once; what is against it, if anything is."""
        refused = _Refusals()
        batch: Wave[Message] | None = None
        why = ""
        try:
            self._refuse_missing(pending, channel, refused)
            batch = encoded(list(pending.values()), channel.encoder, refused)
            write(batch.batch, channel, Patience(_PATIENCE))
        except ConnectionLostError as error:
            self._broker.lose(error)
            why = str(error)
        except StalledError:
            self._broker.lose(StalledError(_STALLED))
            why = _STALLED
        finally:
            published = [] if batch is None else refused.look(batch)
            for message in published:
                del pending[message.message_id]
            self._tally.publish(published)
            if self._refusals:
                with self._guard:
                    for message in published:
                        self._refusals.pop(message.listener.id, None)
            self._refuse(pending, refused)
        if why == _STALLED:
            until = time.monotonic() + _DIVERSION
            self._stalled.update((message.listener.id, until) for message in pending.values())
            self._pass_by(pending)
        return why

    def _pass_by(self, pending: Pending) -> None:
        """Divert what would meet a queue that has not confirmed: others shall not wait with it."""
        now = time.monotonic()
        self._stalled = {row: until for row, until in self._stalled.items() if until > now}
        if self._stalled:
            stalled = [m for m in pending.values() if m.listener.id in self._stalled]
            for message in stalled:
                del pending[message.message_id]
            self._divert(stalled, _STALLED)

    def _refuse_missing(
        self, pending: Pending, channel: PublishingChannel, refused: _Refusals
    ) -> None:
        """Refuse what goes to exchanges that there are not: it would cost others the channel."""
        exchanges = {message.listener.fields[EXCHANGE] for message in pending.values()}
        deadline = time.monotonic() + _PATIENCE
        missing = {name: missing_exchange(channel, name, deadline) for name in exchanges}
        for message in pending.values():
            text = missing[message.listener.fields[EXCHANGE]]
            if text is not None:
                refused.add(text, message)
        self._refuse(pending, refused)

    def _refuse(self, pending: Pending, refused: _Refusals) -> None:
        """Divert what is refused, for each reason together."""
        for text, messages in refused.items():
            left = [message for message in messages if message.message_id in pending]
            rows = {message.listener.id for message in left}
            with self._guard:
                new = any(self._refusals.get(row) != text for row in rows)
                self._refusals.update(dict.fromkeys(rows, text))
            if new:
                self._log.warning("notifications refused", error=text, messages=len(left))
            for message in left:
                del pending[message.message_id]
            self._divert(left, text)


class _Refusals(dict[str, list[Message]]):
    """Messages that the broker does not take, by the reason."""

    def add(self, text: str, message: Message) -> None:
        """It does not take this one."""
        self.setdefault(text, []).append(message)

    def look(self, wave: Wave[Message]) -> list[Message]:
        """Take in what the broker has said of the messages; which it has taken."""
        published = []
        for message, verdict, text in wave.news():
            if verdict is None:
                published.append(message)
            else:
                self.add(text, message)
        return published


def encoded(messages: list[Message], encoder: Encoder, refused: _Refusals) -> Wave[Message]:
    """What is to be written; no broker could be sent what is refused here."""
    stream, starts, found = bytearray(), array("Q"), []
    series: Series | None = None
    of: tuple[Listener, int] | None = None
    for message in messages:
        start = len(stream)
        try:
            if message.gap is not None:
                encoder.append(stream, message.fields, message.body)
            else:
                if series is None or of != (message.listener, message.timestamp):
                    of = message.listener, message.timestamp
                    series = Series(message.fields, message.message_id, encoder.frame_max)
                series.append(stream, message.message_id, message.body)
        except (MessageError, ValueError) as error:
            series = None
            refused.add(f"no broker could take it: {error}", message)
            continue
        starts.append(start)
        found.append(message)
    return Wave(Batch(stream, starts, encoder.frame_max, rewrite=True), found)
