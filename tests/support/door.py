"""A door of its own, as a program: it tells each broker what stands in the table `told`.

It shows what a second door takes: all that is not said here comes from runtime and wire.
"""

from __future__ import annotations

import os
import sys
from array import array
from typing import Any

import structlog

from pg_amqp_daemon.runtime import logs
from pg_amqp_daemon.runtime.broker_connection import BrokerConnection
from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.database import Database
from pg_amqp_daemon.runtime.health import Condition
from pg_amqp_daemon.runtime.process import Process
from pg_amqp_daemon.runtime.session_worker import SessionWorker
from pg_amqp_daemon.runtime.supervisor import Supervisor
from pg_amqp_daemon.runtime.watcher import Watcher
from pg_amqp_py.wire.batch import Batch
from pg_amqp_py.wire.channel import PublishingChannel, connect_publisher
from pg_amqp_py.wire.errors import ConnectionLostError, StalledError
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.pump import Patience, write

_LOCK = "SELECT pg_try_advisory_lock(76543, %s::int4)"
_TELL = "SELECT text FROM public.told WHERE broker_id = %s::int4 ORDER BY text"
_TOLD = "DELETE FROM public.told WHERE broker_id = %s::int4 AND text = ANY (%s::text[])"


class Teller(SessionWorker):
    """Tells one broker, unless somebody else does."""

    def __init__(self, dsn: str, broker_id: int, counter: Any) -> None:
        log = structlog.get_logger().bind(broker_id=broker_id)
        super().__init__(Database(dsn, "tell"), "tell", f"teller-{broker_id}", log)
        self.leading = False
        self._broker_id = broker_id
        self._counter = counter
        self.broker = BrokerConnection(
            f"pg-amqp tell {os.getpid()}",
            connect_publisher,
            on_open=lambda _channel: None,
            on_wait=lambda: None,
            stopping=self._stopping,
            log=log,
        )
        self.start()

    def work_in_session(self) -> None:
        """Become the one that tells, and tell."""
        while self._database.ask(_LOCK, self._broker_id) != [(True,)]:
            self._well()
            if self._stopping.wait(0.1):
                return
        self.leading = True
        self._database.lease.take()
        while not self._stopping.wait(0.05):
            self.broker.addresses = addresses_of_brokers(self._database)[self._broker_id]
            texts = [text for (text,) in self._database.ask(_TELL, self._broker_id)]
            channel = self.broker.established()
            if texts and channel is not None and self._database.lease.valid:
                self._tell(channel, texts)
            self.broker.look_after(may_open=True)
            self._well()

    def _tell(self, channel: PublishingChannel, texts: list[str]) -> None:
        stream, starts = bytearray(), array("Q")
        for text in texts:
            starts.append(len(stream))
            channel.encoder.append(stream, Envelope("amq.topic", "told"), text.encode())
        try:
            write(Batch(stream, starts, channel.encoder.frame_max), channel, Patience(5.0))
        except (ConnectionLostError, StalledError) as error:
            self.broker.lose(error)
        else:
            self._database.ask(_TOLD, self._broker_id, texts)
            self._counter.labels(self._broker_id).inc(len(texts))

    def on_session_end(self, _failure: object) -> None:
        """Somebody else may tell now."""
        self.leading = False

    def on_end(self) -> None:
        """Say goodbye."""
        self.broker.close()


class Tell:
    """The door, as a part of a process."""

    def __init__(self, dsn: str, process: Process) -> None:
        counter = process.metrics.counter("told", "Texts that were told.", ["broker_id"])
        self._database = Database(dsn, "tell", " (brokers)")
        self._tellers: Supervisor[int, Teller] = Supervisor(
            lambda number: Teller(dsn, number, counter)
        )
        self._watcher = Watcher(
            self._database,
            lambda: self._tellers.keep(addresses_of_brokers(self._database).keys()),
            stopping=process.stopping,
            metrics=process.metrics,
        )
        process.health.register(
            "database", lambda: Condition(self._watcher.error or "ok", self._watcher.error)
        )
        process.health.register("tellers", self._condition)

    def start(self) -> None:
        """Begin."""
        self._watcher.start()

    def look(self) -> None:
        """Give up what does not answer."""
        self._watcher.unblock()
        self._tellers.unblock()

    def stop(self) -> None:
        """Finish."""
        self._tellers.stop()

    def end(self) -> None:
        """Wait for the end."""
        self._tellers.end()

    def _condition(self) -> Condition:
        found = self._tellers.workers.copy()
        doing = {
            number: "telling" if one.leading else "standing by" for number, one in found.items()
        }
        troubles = [one.session_trouble or one.broker.trouble for one in found.values()]
        return Condition(doing, next(filter(None, troubles), None))


def main(dsn: str) -> None:
    """Tell until a signal says stop."""
    logs.configure()
    process = Process()
    tell = Tell(dsn, process)
    process.serve("127.0.0.1", 0)
    process.run(tell)
    modules = sorted(name for name in sys.modules if name.startswith("pg_amqp_daemon."))
    structlog.get_logger().info("modules", names=modules)


if __name__ == "__main__":
    main(sys.argv[1])
