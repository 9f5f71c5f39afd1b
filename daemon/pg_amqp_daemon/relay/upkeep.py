"""What a relay does beside delivering: it reads hosts, notes trouble, and gives back space."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import psycopg

from pg_amqp_daemon.relay.outbox import Outbox
from pg_amqp_daemon.relay.publisher import Publisher
from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.database import Database, first_line

_HOSTS_INTERVAL = 1.0
_COMPACT_INTERVAL = 5.0
_COMPACT_REFUSED_INTERVAL = 300.0
_FORGET_INTERVAL = 10.0


class Upkeep:
    """Of one broker's outbox. Raises psycopg.Error."""

    def __init__(
        self,
        broker_id: int,
        database: Database,
        outbox: Outbox,
        publisher: Publisher,
        log: Any,
    ) -> None:
        self._broker_id = broker_id
        self._database = database
        self._outbox = outbox
        self._publisher = publisher
        self._log = log
        self._next_hosts = 0.0
        self._noted: str | None = ""
        """The trouble that outbox_status() shows; empty if that is not known."""
        self._next_compact = 0.0
        self._refused_to_compact: str | None = None
        self._next_forgetting = 0.0

    def begin(self) -> None:
        """Others may have worked the outbox meanwhile."""
        self._noted = ""
        self._next_hosts = 0.0

    def doubt(self) -> None:
        """Messages were settled, which may have ended the trouble that outbox_status() shows."""
        if self._noted is not None:
            self._noted = ""

    def read_hosts(self) -> None:
        """Have the publisher use the hosts that are configured now, if it is time to look."""
        now = time.monotonic()
        if now >= self._next_hosts:
            self._next_hosts = now + _HOSTS_INTERVAL
            hosts = addresses_of_brokers(self._database).get(self._broker_id, [])
            self._publisher.configure(hosts)

    def note(self, trouble: str | None) -> None:
        """Let outbox_status() show this trouble, or none."""
        if trouble != self._noted:
            # Somebody may have locked its row: then it is noted later.
            with suppress(psycopg.errors.LockNotAvailable):
                self._outbox.note(trouble)
                self._noted = trouble

    def forget(self) -> None:
        """Forget delivered messages that were kept for long enough, if it is time to look.

        Settling others does so, too, but there may be none.
        """
        if time.monotonic() >= self._next_forgetting:
            self._next_forgetting = time.monotonic() + _FORGET_INTERVAL
            self._outbox.settle([], [], [], [])

    def compact(self) -> None:
        """Give back the space of the outbox, if it is time to look."""
        if time.monotonic() < self._next_compact:
            return
        interval = _COMPACT_INTERVAL
        try:
            if self._outbox.compact():
                self._log.info("gave back the space of the outbox")
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
                # The session is gone.
                raise
            text = first_line(error)
            if text != self._refused_to_compact:
                self._log.warning("could not give back the space of the outbox", error=text)
            self._refused_to_compact = text
            interval = _COMPACT_REFUSED_INTERVAL
        self._next_compact = time.monotonic() + interval
