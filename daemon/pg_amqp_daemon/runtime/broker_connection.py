"""A connection to a broker that is looked after: not silent, and opened again after each loss."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.backoff import Backoff
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.errors import (
    ChannelClosedError,
    ConnectError,
    ConnectionLostError,
    WireError,
)

if TYPE_CHECKING:
    from pg_amqp_py.wire.table import JSON

_CONNECT_TIMEOUT = 5.0
_HEARTBEAT = 10
"""Seconds; a broker from which nothing comes for twice as long is given up."""
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0
_PAUSE = 0.1
"""Seconds that a caller waits at once, at most, where there is no connection."""


_CLIENT: dict[str, JSON] = {"product": "pg-amqp", "platform": "Python"}
"""What RabbitMQ shows of the program, beside the name of its connection."""


class HasConnection(Protocol):
    """A role on a connection: a publisher's (wire.channel)."""

    @property
    def connection(self) -> Connection:
        """The one that it has the channel of."""
        ...


Role = TypeVar("Role", bound=HasConnection)
Opened = TypeVar("Opened", bound=HasConnection, covariant=True)


class Connect(Protocol[Opened]):
    """Opens a connection in the role that a door needs, as connect_publisher() does."""

    def __call__(
        self,
        address: Address,
        client: dict[str, JSON],
        timeout: float,
        on_wait: Callable[[], None],
        *,
        heartbeat: int,
    ) -> Opened:
        """Raises ConnectError, and whatever `on_wait` raises."""
        ...


class BrokerConnection(Generic[Role]):
    """At most one open connection at a time, to any of a broker's hosts, in one role.

    Used by one thread, which calls `look_after` where it has nothing else to do; others may read
    `trouble` and `connected`, and set `addresses`. `name` is what RabbitMQ lists as connection
    name, `on_wait` is called while it waits and may raise, `on_open` when there is a connection.
    """

    def __init__(
        self,
        name: str,
        connect: Connect[Role],
        *,
        on_open: Callable[[Role], None],
        on_wait: Callable[[], None],
        stopping: threading.Event,
        log: Any,
    ) -> None:
        self.addresses: list[Address] = []
        """Hosts that are configured: used from the next connection on, and no other is."""
        self.trouble: str | None = None
        """Why there is no connection that takes messages; None when there is, or may be."""
        self._client = {**_CLIENT, "connection_name": name}
        self._connect = connect
        self._on_open = on_open
        self._door_waits = on_wait
        self._stopping = stopping
        """Ends every pause."""
        self._log = log
        self._role: Role | None = None
        # Jitter, so that many do not all come back in the same moment.
        self._backoff = Backoff(_FIRST_BACKOFF, _LONGEST_BACKOFF, lambda: random.uniform(0.5, 1.0))

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._role is not None

    def established(self) -> Role | None:
        """A connection to a host that is still configured; waits a little where there is none."""
        role = self._role
        if role is not None:
            if role.connection.address in self.addresses:
                return role
            self.drop()
        wait = self._backoff.wait(time.monotonic())
        if wait > 0:
            self._stopping.wait(min(wait, _PAUSE))
            return None
        return self._open()

    def look_after(self, *, may_open: bool) -> None:
        """Notice while there is nothing to do that the broker has gone, or is back."""
        if self._role is not None:
            self.listen()
        elif may_open and not self._backoff.wait(time.monotonic()):
            self._open()

    def listen(self) -> None:
        """Take in what the broker has said by itself: perhaps its farewell."""
        if self._role is not None:
            try:
                self._role.connection.receive()
                self._heed_block(self._role.connection)
                self._role.connection.beat()
            except (ConnectionLostError, ChannelClosedError) as error:
                self.lose(error)

    def lose(self, error: WireError) -> None:
        """Give up a connection that is of no use any more; the next one comes a little later."""
        self._log.warning("connection to broker lost", error=str(error))
        self.drop()
        self.trouble = f"the connection was lost: {error}"
        self._backoff.lost(time.monotonic())

    def drop(self) -> None:
        """Give up the connection, if there is one."""
        role, self._role = self._role, None
        if role is not None:
            role.connection.abandon(ConnectionLostError("given up"))

    def give_away(self) -> None:
        """Leave the connection to somebody else, who looks after it; the next one is another."""
        self._role = None

    def close(self) -> None:
        """Say goodbye."""
        if self._role is not None:
            self._role.connection.close()

    def _open(self) -> Role | None:
        hosts = list(self.addresses)
        random.shuffle(hosts)
        failure = "the broker has no row in amqp.broker"
        for address in hosts:
            try:
                role = self._connect(
                    address, self._client, _CONNECT_TIMEOUT, self._on_wait, heartbeat=_HEARTBEAT
                )
            except ConnectError as error:
                failure = f"could not connect to {address}: {error}"
                continue
            self._role = role
            self._backoff.succeeded()
            self._on_open(role)
            self.trouble = None
            self._log.info("connected to broker", host=str(address))
            return role
        self._backoff.failed(time.monotonic())
        if failure != self.trouble:
            self._log.warning("broker not reachable", error=failure)
        self.trouble = failure
        return None

    def _on_wait(self) -> None:
        self._door_waits()
        if self._role is not None:
            self._heed_block(self._role.connection)
            self._role.connection.beat()

    def _heed_block(self, connection: Connection) -> None:
        """There is trouble as long as the broker says that it takes no messages."""
        if connection.blocked is None:
            self.trouble = None
            return
        trouble = f"the broker blocks publishers: {connection.blocked}"
        if self.trouble != trouble:
            self._log.warning("broker blocked", reason=connection.blocked)
        self.trouble = trouble
