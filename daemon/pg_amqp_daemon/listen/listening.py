"""The thread that listens for all rows of amqp.listener, unless another session does.

It never waits for a broker or a lock: what it does not read, PostgreSQL keeps for the whole
cluster. Of whatever it may have missed it tells: first LISTEN, then a gap, then what comes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import count

import psycopg
import structlog
from psycopg.pq.misc import PGnotify

from pg_amqp_daemon.listen.courier import Courier
from pg_amqp_daemon.listen.listener import Listener, Message, quoted, read_listeners
from pg_amqp_daemon.listen.metrics import ListenMetrics
from pg_amqp_daemon.listen.tally import Tally
from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.connection_name import connection_name
from pg_amqp_daemon.runtime.database import Database
from pg_amqp_daemon.runtime.session_worker import SessionWorker
from pg_amqp_daemon.runtime.supervisor import Supervisor

_LOOK = 0.5
"""Seconds between looks at rows and clock: a change shall count within a second."""
_STAND_BY = 0.5
_AGAIN = 2.0
"""Seconds until a gap that could not be told is tried again."""
_LOOK_AT = """
SELECT clock, ours, usage, may_store, version, rows::text FROM amqp_inner.listener_look(%s, %s)
"""
_TAKE = "SELECT amqp_inner.listener_take()"
_CLOCK = "SELECT amqp_inner.listener_clock()"
_IN_RECOVERY = "SELECT pg_is_in_recovery()"
_MAY_LOOK = """
SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT') FROM pg_catalog.pg_class AS c
WHERE c.oid = pg_catalog.to_regclass('amqp.listener')
"""


class Listening(SessionWorker):
    """Listens for ever, and has a courier for each broker.

    Where this is `optional`, a role that may not see any rows has none.
    """

    def __init__(
        self,
        dsn: str,
        tally: Tally,
        metrics: ListenMetrics,
        divert: Callable[[list[Message], str], None],
        *,
        optional: bool,
    ) -> None:
        super().__init__(
            # As long as the session is there, nobody else listens. While it waits for a lock, it
            # reads nothing.
            Database(dsn, "listen", settings={"lock_timeout": "100ms"}, own=True),
            "listen",
            "listening",
            structlog.get_logger(),
        )
        name = connection_name("listen", dsn)
        self.listening = False
        """Whether it is the one that listens."""
        self.couriers: Supervisor[int, Courier] = Supervisor(
            lambda broker_id: Courier(broker_id, name, tally, divert)
        )
        self._tally = tally
        self._metrics = metrics
        self._optional = optional
        self._heard: list[PGnotify] = []
        """What has arrived and was not handed over yet."""
        self._listeners: dict[int, Listener] = {}
        self._by_name: dict[bytes, list[Listener]] = {}
        self._left: dict[int, Listener] | None = None
        """What the last session that listened has left; None: there was none."""
        self._reached: str | None = None
        """Until when it had received everything."""
        self._again: dict[int, float] = {}
        """When a row's next gap may be told."""
        self._ids = _unique_ids()
        self._next_look = 0.0
        self._fresh = True
        """Whether the session has not looked yet."""
        self._version: str | None = None
        """Of the rows, as it has seen them."""
        self.start()

    # -- in the thread -----------------------------------------------------------------

    def work_in_session(self) -> None:
        """Become the one that listens, and do so until the session ends."""
        if self._database.ask(_IN_RECOVERY) == [(True,)]:
            self.tell("the server is a standby, where nobody can LISTEN")
            return
        if not (self._may_look() and self._stand_by()):
            return
        self._heard.clear()
        self._database.hear(self._heard.append)
        self._next_look = 0.0
        self._fresh = True
        self._version = None
        while not self._stopping.is_set():
            if time.monotonic() >= self._next_look and not self._look():
                self._log.warning("another session listens")
                return
            self._hand_over()
            self._database.wait(max(self._next_look - time.monotonic(), 0))
        self._hand_over()

    def on_session_end(self, failure: Exception | None) -> None:
        """What was heard goes its way; what was not is a gap of the next session."""
        self._hand_over()
        self.listening = False
        if self._listeners:
            self._left, self._reached = self._listeners, self._tally.account.reached
            self._listeners = {}
            self._by_name = {}

    def _may_look(self) -> bool:
        """Wait until the role may see the rows, where it need not; False: stop."""
        while self._optional and self._database.ask(_MAY_LOOK) != [(True,)]:
            self._well()
            if self._stopping.wait(_STAND_BY):
                return False
        return True

    def _stand_by(self) -> bool:
        """Wait until this session is the one that listens; False: stop."""
        said = False
        while self._database.ask(_TAKE) != [(True,)]:
            if not said:
                self._log.info("standing by: another session listens")
                said = True
            self._well()
            if self._stopping.wait(_STAND_BY):
                return False
        self.listening = True
        self._log.info("listening")
        return True

    # -- what may have changed -----------------------------------------------------------

    def _look(self) -> bool:
        """See to clock, rows and brokers; False: another session listens."""
        self._next_look = time.monotonic() + _LOOK
        try:
            return self._see()
        except psycopg.errors.LockNotAvailable:
            if self._fresh:
                raise
            self.tell("a table of the schema amqp is locked: no change of a row counts")
            return True

    def _see(self) -> bool:
        ((clock, ours, usage, may_store, version, rows),) = self._database.ask(
            _LOOK_AT, self._database.address, self._version
        )
        if not ours:
            return False
        # What has arrived before the clock was looked at is of the epoch that ends.
        self._hand_over()
        if not self._fresh:
            self._tally.account.look(clock)
        self._metrics.usage.set(usage)
        hosts = addresses_of_brokers(self._database)
        if rows is not None:
            found = read_listeners(rows, may_store=may_store)
            if found != self._listeners:
                clock = self._change(found)
            self._version = version
        if self._fresh:
            self._tally.account.begin(clock)
            self._fresh = False
        self.couriers.keep({listener.broker_id for listener in self._listeners.values()})
        for broker_id, courier in self.couriers.workers.items():
            courier.configure(hosts.get(broker_id, []))
            courier.keep(self._listeners.keys())
        self._tell_of_gaps()
        self._well()
        return True

    def _change(self, found: dict[int, Listener]) -> str:
        """LISTEN for these rows from now on, and for no other; PostgreSQL's clock behind that."""
        before = self._listeners
        old = {listener.channel for listener in before.values()}
        new = {listener.channel for listener in found.values()}
        for channel in sorted(new - old):
            self._database.ask(f"LISTEN {quoted(channel)}")
        # What is heard from here on comes behind the messages that tell of gaps.
        ((clock,),) = self._database.ask(_CLOCK)
        for listener in found.values():
            same = before.get(listener.id)
            if same != listener:
                self._begin(listener, same, clock)
        for channel in sorted(old - new):
            self._database.ask(f"UNLISTEN {quoted(channel)}")
        self._listeners = found
        self._by_name = {}
        for listener in found.values():
            self._by_name.setdefault(listener.name, []).append(listener)
        self._tally.gaps.keep(set(found))
        # What is owed for the change comes before whatever the row gets by it.
        self._again.clear()
        self._log.info("channels", names=sorted(new))
        return str(clock)

    def _begin(self, listener: Listener, before: Listener | None, clock: str) -> None:
        """Somebody listens for a row from now on: what is it that may have been missed?"""
        reason, reached = "row", self._tally.account.reached
        if self._fresh:
            before = None if self._left is None else self._left.get(listener.id)
            if self._left is None:
                reason = "start"
            elif before is not None and before.text == listener.text:
                reason, reached = "postgres", self._reached
        if before is None or before.channel != listener.channel:
            reached = None
        self._tally.gaps.owe(listener.id, reason, reached)
        self._tally.begin(listener.id, clock)

    def _tell_of_gaps(self) -> None:
        now, owing = time.monotonic(), self._tally.gaps.owing
        due = [
            listener
            for listener_id, listener in self._listeners.items()
            if listener_id in owing
            and now >= self._again.get(listener_id, now)
            and (listener.may_store or self.couriers.workers[listener.broker_id].takes)
        ]
        if not due:
            return
        # A gap ends behind all that can have been dropped by now.
        ((clock,),) = self._database.ask(_CLOCK)
        epoch = self._tally.account.epoch
        for listener in due:
            self._again[listener.id] = now + _AGAIN
            gaps = self._tally.gaps.take(listener.id, clock)
            self._put(
                listener.broker_id,
                [Message(listener, b"", next(self._ids), _now(), epoch, gap) for gap in gaps],
            )

    # -- notifications -------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Give what was heard to the couriers."""
        heard = self._heard.copy()
        del self._heard[: len(heard)]
        if not heard:
            return
        now, epoch, ids = _now(), self._tally.account.epoch, self._ids
        found: dict[int, list[Message]] = {}
        for notification in heard:
            for listener in self._by_name.get(notification.relname, ()):
                found.setdefault(listener.broker_id, []).append(
                    Message(listener, notification.extra, next(ids), now, epoch)
                )
        for broker_id, messages in found.items():
            self._put(broker_id, messages)

    def _put(self, broker_id: int, messages: list[Message]) -> None:
        if messages:
            self._tally.receive(messages)
            self.couriers.workers[broker_id].put(messages)


def _now() -> int:
    return int(time.time())


def _unique_ids() -> Iterator[str]:
    """Texts in the form of a UUID that nobody else has: a random half, and a number."""
    head = os.urandom(10).hex()
    start = f"{head[:8]}-{head[8:12]}-4{head[12:15]}-8{head[15:18]}-"
    return (f"{start}{number:012x}" for number in count())
