"""Messages that RabbitMQ does not take now, into amqp.outbox: in a thread and a session of its own.

What is stored goes out with the login of the broker's row, whoever posted it. So only that very
login may store: the same virtual host, user and password. RabbitMQ lets it do what the row may do,
no more and no less, and says so of each message when it is delivered.
"""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg
import structlog

from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.posted import unpublished
from pg_amqp_daemon.gateway.problem import Problem
from pg_amqp_daemon.runtime.database import Database, first_line
from pg_amqp_daemon.runtime.session_worker import SessionWorker
from pg_amqp_py.wire.fields import FIELDS

_VALUES = {"headers": "%s::jsonb", "timestamp": "pg_catalog.to_timestamp(%s::float8)"}
_STORE = (
    "SELECT amqp.publish_outbox(broker_id => %s::int4, message => %s::bytea, "
    + ", ".join(f'"{name}" => {_VALUES.get(name, "%s")}' for name in FIELDS)
    + ")"
)
_NOT_THE_MESSAGES = {"08", "25", "3F", "40", "42", "53", "55", "57", "58"}
"""Classes of errors for which no message is at fault."""
_MOST = 100
"""Messages stored at a time."""
_WAITING = 10_000
"""Messages that may wait for being stored."""
_WAIT = 0.25
_AWAY = "nor stored: the database is away"


class _Waiting(NamedTuple):
    broker_id: int
    message: Message
    tell: Callable[[Problem | None], None]


class Outbox(SessionWorker):
    """Stores messages of one process."""

    def __init__(self, dsn: str) -> None:
        super().__init__(
            Database(dsn, "gateway", " (outbox)"), "gateway", "outbox", structlog.get_logger()
        )
        self._waiting: queue.SimpleQueue[_Waiting] = queue.SimpleQueue()
        self._begun = False

    async def store(self, broker_id: int, message: Message) -> Problem | None:
        """Store it for delivery to this broker; None if that is done."""
        if self._waiting.qsize() >= _WAITING:
            return unpublished("nor stored: too many messages wait for that")
        if not self._begun:
            # Most of the time nobody needs it.
            self._begun = True
            self.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Problem | None] = loop.create_future()

        def settle(answer: Problem | None) -> None:
            if not future.done():
                future.set_result(answer)

        def tell(answer: Problem | None) -> None:
            with suppress(RuntimeError):
                # The loop may have ended.
                loop.call_soon_threadsafe(settle, answer)

        self._waiting.put(_Waiting(broker_id, message, tell))
        return await future

    # -- in the thread -----------------------------------------------------------------------

    def work_in_session(self) -> None:
        """Store what waits."""
        self._well()
        while not self._stopping.is_set():
            those = self._next()
            if those:
                self._store(those)

    def on_session_end(self, failure: psycopg.Error | None) -> None:
        """Nobody shall wait for a database that is away."""
        if failure is not None:
            self._refuse_all()

    def on_end(self) -> None:
        """The program ends."""
        self._refuse_all()

    def _refuse_all(self) -> None:
        while True:
            try:
                self._waiting.get_nowait().tell(unpublished(_AWAY))
            except queue.Empty:
                return

    def _next(self) -> list[_Waiting]:
        """Some that wait; none if there are none for a moment."""
        those: list[_Waiting] = []
        try:
            those.append(self._waiting.get(timeout=_WAIT))
            while len(those) < _MOST:
                those.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return those

    def _store(self, those: list[_Waiting]) -> None:
        committing = False
        try:
            with self._database.asking() as connection, connection.transaction():
                rows = [_row(one) for one in those]
                connection.cursor().executemany(_STORE.encode(), rows)
                committing = True
        except psycopg.Error as error:
            if self._database.broken:
                answer = (
                    Problem(504, "may wait in amqp.outbox: the session was lost")
                    if committing
                    else unpublished(_AWAY)
                )
                self._tell(those, answer)
                raise
            if (error.sqlstate or "")[:2] in _NOT_THE_MESSAGES:
                self._log.warning("could not store messages", error=first_line(error))
                self._tell(those, unpublished("nor stored: the database refuses that"))
            elif len(those) > 1:
                self._store_each(those)
            else:
                self._tell(those, Problem(400, first_line(error)))
        except BaseException:
            self._tell(those, unpublished("nor stored"))
            raise
        else:
            self._tell(those, None)

    def _store_each(self, those: list[_Waiting]) -> None:
        """Find out which one is at fault."""
        left = deque(those)
        try:
            while left:
                self._store([left.popleft()])
        except BaseException:
            self._tell(left, unpublished(_AWAY))
            raise

    def _tell(self, those: Iterable[_Waiting], answer: Problem | None) -> None:
        for one in those:
            one.tell(answer)


def _row(one: _Waiting) -> list[Any]:
    return [one.broker_id, one.message.body, *one.message.fields]
