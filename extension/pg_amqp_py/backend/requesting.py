"""The SQL functions amqp.request() and amqp.request_all(): messages that are answered.

They go out at once, on a connection of their own: a request that waited for the commit would be
waited for in vain, and what the broker refuses must cost no published message its confirm.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pg_amqp_py.backend import settings
from pg_amqp_py.backend.asking import broker
from pg_amqp_py.backend.errors import (
    CONNECTION_FAILURE,
    INSUFFICIENT_RESOURCES,
    INVALID_PARAMETER,
    LIMIT_EXCEEDED,
    NO_ANSWER,
    NOT_CONSUMED,
    UNDEFINED_OBJECT,
    UNROUTABLE,
    WRONG_STATE,
    AMQPError,
    broker_says,
    from_wire,
    invalid_message,
    required,
)
from pg_amqp_py.backend.received import as_message
from pg_amqp_py.backend.server import IN_CALL, Statement
from pg_amqp_py.wire.encode import Series
from pg_amqp_py.wire.errors import (
    NOT_FOUND,
    ChannelClosedError,
    ConnectionLostError,
    MessageError,
    RepliesTooLargeError,
    ReplyError,
    StalledError,
)
from pg_amqp_py.wire.fields import CORRELATION_ID, FIELDS, PLACE
from pg_amqp_py.wire.properties import DIRECT_REPLY_TO
from pg_amqp_py.wire.request.channel import RequestingChannel, connect_requester
from pg_amqp_py.wire.request.requests import SAMPLE, Requests

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pg_amqp_py.backend.broker import Broker
    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.errors import WireError

_OURS = "reply_to", "correlation_id", "mandatory", "expiration"
"""Properties that only the requester itself can know."""
_GIVEN = tuple(name for name in FIELDS[PLACE.stop :] if name not in _OURS)
_TIMESTAMP = _GIVEN.index("timestamp")
_LONGEST = 86400.0
"""Seconds."""
_RECENT = 0.1
"""Seconds for which a queue that has answered passes for one that is consumed."""
_MOST_KEPT = 64
"""Of what is remembered to be used again."""

_to_seconds = Statement(
    "SELECT EXTRACT(epoch FROM $1::pg_catalog.interval)::pg_catalog.float8 AS seconds", "text"
)


class _Place(NamedTuple):
    """Where requests go."""

    exchange: str
    routing_key: str

    @property
    def queue(self) -> str | None:
        """The queue that it is, if it is one: the default exchange routes by a queue's name."""
        return None if self.exchange else self.routing_key

    def __str__(self) -> str:
        if self.queue is not None:
            return f'queue "{self.queue}"'
        return f'exchange "{self.exchange}" with routing key "{self.routing_key}"'


class _Requester:
    """A connection for requests, and what it remembers to ask faster."""

    def __init__(self, channel: RequestingChannel) -> None:
        self.channel = channel
        self.connection = channel.connection
        self._series: dict[tuple[object, ...], Series] = {}
        self._consumed: dict[str, float] = {}
        """Until when (time.monotonic()) nobody need look whether a queue is consumed."""

    def series(self, place: _Place, properties: tuple[Any, ...], seconds: float) -> Series:
        """How to encode requests that are not answered after so many seconds. Raises MessageError.

        RabbitMQ drops an expired one, or gives it to nobody any more.
        """
        expiration = str(max(1, int(seconds * 1000)))
        key = (*place, *properties, expiration)
        known = self._series.get(key)
        if known is None:
            given = dict(zip(_GIVEN, properties, strict=True))
            given |= {
                "reply_to": DIRECT_REPLY_TO,
                "mandatory": True,
                "expiration": expiration,
            }
            fields = (*place, *(given.get(name) for name in FIELDS[PLACE.stop :]))
            known = Series(fields, SAMPLE, self.connection.frame_max, CORRELATION_ID)
            _remember(self._series, key, known)
        return known

    def is_consumed(self, queue: str, deadline: float) -> bool:
        """Whether somebody consumes a queue. Raises ChannelClosedError (NOT_FOUND) if it is none.

        To look takes a round trip, so it is not done right behind an answer from there.
        """
        if self._consumed.get(queue, 0.0) > time.monotonic():
            return True
        try:
            return self.channel.consumers(queue, deadline) > 0
        except ChannelClosedError as error:
            if error.code == NOT_FOUND:
                raise
            # It is somebody's own (exclusive), or this login may not look at it. A request may
            # reach it all the same.
            _remember(self._consumed, queue, math.inf)
            return True

    def has_answered(self, queue: str) -> None:
        """Remember that somebody consumes a queue."""
        if self._consumed.get(queue) != math.inf:
            _remember(self._consumed, queue, time.monotonic() + _RECENT)


def _remember(known: dict[Any, Any], key: object, value: object) -> None:
    if len(known) >= _MOST_KEPT and key not in known:
        known.clear()
    known[key] = value


# -- the functions ---------------------------------------------------------------------


def request(
    broker_id: int | None,
    exchange: str | None,
    routing_key: str | None,
    message: str | bytes | None,
    timeout: str | None,
    *properties: Any,
) -> tuple[Any, ...]:
    """amqp.request(): send a message now, and return the reply. Raises AMQPError."""
    (reply,) = _ask(broker_id, exchange, routing_key, [message], timeout, properties)
    return reply


def request_all(
    broker_id: int | None,
    exchange: str | None,
    routing_key: str | None,
    messages: list[Any] | None,
    timeout: str | None,
    *properties: Any,
) -> list[tuple[Any, ...]]:
    """amqp.request_all(): the replies to all of them, or an AMQPError."""
    given = required("messages", messages)
    if any(isinstance(message, list) for message in given):
        raise AMQPError("messages must have one dimension", sqlstate=INVALID_PARAMETER)
    return _ask(broker_id, exchange, routing_key, given, timeout, properties)


def _ask(
    broker_id: int | None,
    exchange: str | None,
    routing_key: str | None,
    messages: Sequence[str | bytes | None],
    timeout: str | None,
    properties: tuple[Any, ...],
) -> list[tuple[Any, ...]]:
    number = required("broker_id", broker_id)
    seconds = _seconds(required("timeout", timeout))
    if settings.capture.value():
        raise AMQPError(
            "cannot send a request while amqp.capture is on",
            sqlstate=WRONG_STATE,
            detail="Nobody would answer it.",
            hint="SET amqp.capture = off;",
        )
    settings.check()
    if properties[_TIMESTAMP] is not None:
        properties = _with_epoch(properties)
    place = _Place("amq.direct" if exchange is None else exchange, routing_key or "")
    bodies = [
        message.encode() if isinstance(message, str) else message or b"" for message in messages
    ]
    known = broker(number)
    call = _Call(known, place, bodies, properties, seconds)
    try:
        requests = call.work() if bodies else None
    except AMQPError as error:
        raise known.note(error) from None
    return [as_message(number, reply) for reply in requests.replies()] if requests else []


def _seconds(timeout: str) -> float:
    """Seconds of an interval in its text form, which depends on IntervalStyle. Raises AMQPError."""
    parts = timeout.split(":")
    if len(parts) == 3 and parts[0].isdigit():
        # '00:00:05', which means the same in every style that writes it.
        seconds = int(parts[0]) * 3600 + int(parts[1]) * 60 + float(parts[2])
    else:
        seconds = _to_seconds(timeout)[0]["seconds"]
    if not 0 < seconds <= _LONGEST:
        raise AMQPError(
            f"invalid value for timeout: {timeout}",
            sqlstate=INVALID_PARAMETER,
            hint="A timeout is above 0, and at most 24 hours.",
        )
    return seconds


def _with_epoch(properties: tuple[Any, ...]) -> tuple[Any, ...]:
    from pg_amqp_py.backend.timestamps import epoch

    changed = [*properties]
    changed[_TIMESTAMP] = epoch(properties[_TIMESTAMP])
    return tuple(changed)


# -- one call --------------------------------------------------------------------------


class _Call:
    """Requests of one call of a function, to one place."""

    def __init__(
        self,
        known: Broker,
        place: _Place,
        bodies: list[bytes],
        properties: tuple[Any, ...],
        seconds: float,
    ) -> None:
        self._broker = known
        self._place = place
        self._bodies = bodies
        self._properties = properties
        self._seconds = seconds

    def work(self) -> Requests:
        """Send the requests, on a new connection if the idle one turns out to be dead.

        What may have been written is not written again. Returns when all are answered. Raises
        AMQPError.
        """
        left = self._seconds
        for last_try in (False, True):
            requester = self._reach()
            begun = time.monotonic()
            deadline = begun + left
            try:
                # A connection that has fallen silent shall leave time for another one.
                self._prepare(requester, deadline if last_try else begun + left / 2)
                requests = self._make(requester, deadline)
            except MessageError as error:
                raise invalid_message(error) from None
            except (ReplyError, StalledError) as error:
                if isinstance(error, ReplyError) and error.refuses:
                    raise self._refused(error) from None
                if last_try:
                    raise self._lost(error, None) from None
            else:
                try:
                    return self._send(requester, requests, deadline)
                except ConnectionLostError as error:
                    if last_try or requests.written:
                        raise self._lost(error, requests) from None
            left -= time.monotonic() - begun
        raise AssertionError("unreachable")

    def _reach(self) -> _Requester:
        """The connection that there is, or a new one."""
        known = self._broker
        found = known.requester
        if not isinstance(found, _Requester) or not found.connection.usable:
            timeout = settings.connect_timeout.value()
            name = f"PostgreSQL backend {os.getpid()}, requests"

            def connect(address: Address) -> RequestingChannel:
                return known.attempt(connect_requester, address, name, timeout, IN_CALL)

            known.requester = None
            known.requester = found = _Requester(known.reach(connect))
        return found

    def _prepare(self, requester: _Requester, deadline: float) -> None:
        """Make sure, without a request, that there is any use in sending one."""
        requester.connection.while_waiting(IN_CALL.on_wait)
        requester.channel.make_ready(deadline)
        self._broker.refuse_if_blocked(requester.connection)
        queue = self._place.queue
        if queue is not None and not requester.is_consumed(queue, deadline):
            raise AMQPError(
                f'nobody consumes queue "{queue}" of broker {self._broker.broker_id}',
                sqlstate=NOT_CONSUMED,
                detail="No request was sent.",
                hint="Start what is to answer: a program that consumes the queue, or pg-amqp"
                " consume with a row of amqp.consumer.",
            )

    def _make(self, requester: _Requester, deadline: float) -> Requests:
        left = deadline - time.monotonic()
        return Requests(self._bodies, requester.series(self._place, self._properties, left))

    def _send(self, requester: _Requester, requests: Requests, deadline: float) -> Requests:
        try:
            requester.channel.ask(requests, deadline)
        except ChannelClosedError as error:
            raise self._refused(error) from None
        except StalledError:
            raise self._unanswered(requester, requests) from None
        except RepliesTooLargeError as error:
            raise AMQPError(
                "the replies are too large together",
                sqlstate=LIMIT_EXCEEDED,
                detail=f"They are {error}.",
                hint="Send fewer requests at a time.",
            ) from None
        if requests.returned is not None:
            raise self._returned(requests.returned)
        if self._place.queue is not None:
            requester.has_answered(self._place.queue)
        return requests

    # -- what can go wrong -------------------------------------------------------------

    def _refused(self, error: ReplyError) -> AMQPError:
        number = self._broker.broker_id
        if error.code != NOT_FOUND:
            return from_wire(error, number, f"a request to {self._place}")
        if self._place.queue is not None:
            return self._no_queue(error.reply)
        return AMQPError(
            f'exchange "{self._place.exchange}" does not exist on broker {number}',
            sqlstate=UNDEFINED_OBJECT,
            detail=broker_says(error),
            hint="Who is to answer declares it, and binds a queue to it.",
        )

    def _returned(self, cause: str) -> AMQPError:
        if self._place.queue is not None:
            return self._no_queue(cause)
        return AMQPError(
            f"a request to {self._place} reaches no queue of broker {self._broker.broker_id}",
            sqlstate=UNROUTABLE,
            detail=f"The broker says: {cause}",
            hint="Bind the queue of who is to answer to the exchange.",
        )

    def _no_queue(self, cause: str) -> AMQPError:
        return AMQPError(
            f"{self._place} does not exist on broker {self._broker.broker_id}",
            sqlstate=UNDEFINED_OBJECT,
            detail=f"The broker says: {cause}",
            hint="Who is to answer declares it, and consumes it.",
        )

    def _unanswered(self, requester: _Requester, requests: Requests) -> AMQPError:
        blocked = requester.connection.blocked
        if blocked is not None:
            return AMQPError(
                f"broker {self._broker.broker_id} is not accepting messages",
                sqlstate=INSUFFICIENT_RESOURCES,
                detail=f"The broker blocks publishers: {blocked}. {_fate(requests)}",
                hint="The broker is short of memory or disk space: see rabbitmqctl status.",
            )
        return AMQPError(
            f"no answer from {self._place} of broker {self._broker.broker_id} in time",
            sqlstate=NO_ANSWER,
            detail=f"The timeout was {self._seconds:g} s. {_fate(requests)}",
        )

    def _lost(self, error: WireError, requests: Requests | None) -> AMQPError:
        return AMQPError(
            f"the connection to broker {self._broker.broker_id} was lost",
            sqlstate=CONNECTION_FAILURE,
            detail=f"Reason: {error}. {_fate(requests)}",
        )


def _fate(requests: Requests | None) -> str:
    """What is known of requests that are not all answered."""
    if requests is None or not requests.written:
        return "No request was sent."
    if requests.count == 1:
        return "The request was sent, and may have been carried out."
    return (
        f"Of {requests.count} requests, {requests.written} were sent and may have been carried out;"
        f" {requests.answered} were answered."
    )
