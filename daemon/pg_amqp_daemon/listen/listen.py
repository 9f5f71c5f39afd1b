"""Listens for every row of amqp.listener, as a door of a process."""

from __future__ import annotations

import structlog

from pg_amqp_daemon.listen.listening import Listening
from pg_amqp_daemon.listen.metrics import ListenMetrics
from pg_amqp_daemon.listen.outbox import OutboxWriter
from pg_amqp_daemon.listen.tally import Tally
from pg_amqp_daemon.runtime.health import Condition
from pg_amqp_daemon.runtime.process import Process

_END = 2.0
"""Seconds for the last notifications to be stored."""


class Listen:
    """All listeners of a database.

    Where this is `optional`, a role that may not see any has none.
    """

    def __init__(self, dsn: str, process: Process, *, optional: bool = False) -> None:
        self._log = structlog.get_logger()
        self._dsn = dsn
        self._optional = optional
        self._metrics = ListenMetrics(process.metrics)
        self._tally = Tally(self._metrics)
        self._writer: OutboxWriter | None = None
        self._listening: Listening | None = None
        process.health.register("listeners", self._condition)

    def start(self) -> None:
        """Begin to work."""
        self._log.info("listen started")
        self._writer = OutboxWriter(self._dsn, self._tally)
        self._listening = Listening(
            self._dsn, self._tally, self._metrics, self._writer.divert, optional=self._optional
        )

    def look(self) -> None:
        """Give up whatever does not answer."""
        if self._listening is not None and self._writer is not None:
            self._listening.unblock()
            self._writer.unblock()

    def stop(self) -> None:
        """Listen no more; what was received still goes its way."""
        self._log.info("listen stops")
        if self._listening is not None:
            self._listening.stop()

    def end(self) -> None:
        """Wait until it has, in bounded time."""
        if self._listening is not None and self._writer is not None:
            self._listening.join(_END)
            self._listening.couriers.end()
            self._writer.stop()
            self._writer.join(_END)
            if self._tally.account.open:
                # The next process begins with a gap since nobody knows when.
                self._log.warning("notifications given up", messages=self._tally.account.open)

    def _condition(self) -> Condition:
        listening, writer = self._listening, self._writer
        if listening is None or writer is None:
            return Condition("not started")
        troubles = {
            str(broker_id): courier.trouble
            for broker_id, courier in listening.couriers.workers.copy().items()
        }
        trouble = listening.session_trouble or writer.session_trouble
        trouble = trouble or next(filter(None, troubles.values()), None)
        self._metrics.listening.set(listening.listening)
        self._metrics.pending.set(self._tally.account.open)
        self._metrics.trouble.set(trouble is not None)
        state = trouble or ("listening" if listening.listening else "standing by")
        return Condition(state, trouble)
