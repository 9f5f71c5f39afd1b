"""A connection to a broker that is looked after, over one that is only imagined."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
import structlog

from pg_amqp_daemon.runtime.broker_connection import BrokerConnection
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.errors import (
    ChannelClosedError,
    ConnectionLostError,
    UnreachableError,
    WireError,
)

ONE, TWO = (Address(host, 5672, "/", "guest", "guest") for host in ("one", "two"))


class Imagined:
    """A connection that does as it is told, and the role on it."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.blocked: str | None = None
        self.received: list[WireError] = []
        """What is raised when something is received."""
        self.beats = 0
        self.abandoned = False
        self.closed = False

    @property
    def connection(self) -> Imagined:
        """Itself."""
        return self

    def receive(self) -> None:
        """Take in the next of what the broker has said."""
        if self.received:
            raise self.received.pop(0)

    def beat(self) -> None:
        """Count."""
        self.beats += 1

    def abandon(self, _error: ConnectionLostError) -> None:
        """Be of no use any more."""
        self.abandoned = True

    def close(self) -> None:
        """Be closed in order."""
        self.closed = True


class Imaginary:
    """A broker, and whoever is connected to it."""

    def __init__(self, *addresses: Address) -> None:
        self.opened: list[Imagined] = []
        self.asked: list[str] = []
        """Hosts that were tried, in order."""
        self.dead: set[Address] = set()
        self.farewells = False
        """Whether it closes each connection as soon as it is open."""
        self.waits = 0
        self.on_wait: Callable[[], None] = lambda: None
        self.log = structlog.testing.CapturingLogger()
        self.stopping = threading.Event()
        self.connection = BrokerConnection(
            "pg-amqp test",
            cast(Any, self._connect),
            on_open=lambda _connection: None,
            on_wait=self._count,
            stopping=self.stopping,
            log=self.log,
        )
        self.connection.addresses = list(addresses)

    def _count(self) -> None:
        self.waits += 1

    def _connect(
        self,
        address: Address,
        client: dict[str, str],
        timeout: float,
        on_wait: Callable[[], None],
        *,
        heartbeat: int,
    ) -> Imagined:
        assert client["connection_name"] == "pg-amqp test"
        assert (timeout, heartbeat) == (5.0, 10)
        self.asked.append(address.host)
        self.on_wait = on_wait
        if address in self.dead:
            raise UnreachableError("nobody there")
        opened = Imagined(address)
        if self.farewells:
            opened.received.append(ConnectionLostError("goodbye", 320))
        self.opened.append(opened)
        return opened

    def established(self) -> Imagined:
        """Ask until there is a connection."""
        while True:
            found = self.connection.established()
            if found is not None:
                return cast(Imagined, found)

    @property
    def said(self) -> list[tuple[str, dict[str, Any]]]:
        """What was logged, and with what."""
        return [(call.args[0], call.kwargs) for call in self.log.calls]


def test_a_connection_is_kept() -> None:
    broker = Imaginary(ONE)
    assert not broker.connection.connected
    first = broker.established()
    assert broker.connection.connected
    assert broker.connection.trouble is None
    assert broker.established() is first
    assert broker.said == [("connected to broker", {"host": "one:5672"})]


def test_where_a_host_is_dead_the_other_is_used() -> None:
    broker = Imaginary(ONE, TWO)
    broker.dead.add(ONE)
    for _ in range(20):
        assert broker.established().address == TWO
        broker.connection.drop()
    assert {"one", "two"} == set(broker.asked)


def test_a_host_that_is_not_configured_any_more_is_left() -> None:
    broker = Imaginary(ONE)
    first = broker.established()
    broker.connection.addresses = [TWO]
    second = broker.established()
    assert first.abandoned
    assert second.address == TWO


def test_each_vain_attempt_makes_the_next_come_later() -> None:
    broker = Imaginary(ONE)
    broker.dead.add(ONE)
    started = time.monotonic()
    times: list[float] = []
    while len(times) < 4:
        assert broker.connection.established() is None
        if len(broker.asked) > len(times):
            times.append(time.monotonic() - started)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    # The jitter makes them half as long at most.
    for gap, most in zip(gaps, (0.1, 0.2, 0.4), strict=True):
        assert most / 2 <= gap < most + 0.6
    assert broker.connection.trouble == "could not connect to one:5672: nobody there"
    assert broker.said == [("broker not reachable", {"error": broker.connection.trouble})]


def test_a_broker_that_accepts_and_then_closes_is_not_overrun() -> None:
    """There is a pause after a loss, too."""
    broker = Imaginary(ONE)
    broker.farewells = True
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        broker.connection.look_after(may_open=True)
        time.sleep(0.001)
    assert 5 <= len(broker.opened) <= 21
    if broker.connection.connected:
        # It was opened at the last moment.
        broker.connection.look_after(may_open=False)
    assert broker.connection.trouble == "the connection was lost: goodbye"
    assert all(connection.abandoned for connection in broker.opened)


def test_a_pause_ends_when_everything_ends() -> None:
    broker = Imaginary(ONE)
    broker.dead.add(ONE)
    broker.connection.established()
    broker.stopping.set()
    started = time.monotonic()
    for _ in range(20):
        assert broker.connection.established() is None
    assert time.monotonic() - started < 1.0


def test_a_loss_does_not_make_the_pause_longer_each_time() -> None:
    broker = Imaginary(ONE)
    for _ in range(6):
        broker.established()
        broker.connection.lose(ConnectionLostError("gone"))
    started = time.monotonic()
    broker.established()
    assert time.monotonic() - started < 0.7


@pytest.mark.parametrize(
    "said", [ConnectionLostError("goodbye", 320), ChannelClosedError(404, "no such exchange")]
)
def test_what_the_broker_says_by_itself_is_heard_while_there_is_nothing_to_do(
    said: WireError,
) -> None:
    broker = Imaginary(ONE)
    first = broker.established()
    broker.connection.look_after(may_open=True)
    assert first.beats == 1
    first.received.append(said)
    broker.connection.look_after(may_open=True)
    assert not broker.connection.connected
    assert broker.connection.trouble == f"the connection was lost: {said}"
    assert broker.said[-1] == ("connection to broker lost", {"error": str(said)})


def test_nothing_is_opened_where_it_may_not_be() -> None:
    broker = Imaginary(ONE)
    broker.connection.look_after(may_open=False)
    assert broker.opened == []
    broker.connection.look_after(may_open=True)
    assert len(broker.opened) == 1


def test_a_broker_that_blocks_is_in_trouble_until_it_does_not() -> None:
    broker = Imaginary(ONE)
    connection = broker.established()
    connection.blocked = "low on memory"
    for _ in range(3):
        broker.on_wait()
    assert broker.connection.trouble == "the broker blocks publishers: low on memory"
    assert broker.said[1:] == [("broker blocked", {"reason": "low on memory"})]
    connection.blocked = None
    broker.on_wait()
    assert broker.connection.trouble is None
    assert (broker.waits, connection.beats) == (4, 4)


def test_what_is_given_away_is_not_ended() -> None:
    broker = Imaginary(ONE)
    first = broker.established()
    broker.connection.give_away()
    assert not broker.connection.connected
    second = broker.established()
    assert second is not first
    assert not first.abandoned
    broker.connection.close()
    assert (first.closed, second.closed) == (False, True)


def test_a_connection_that_was_opened_is_told_of_before_all_is_well() -> None:
    told: list[Imagined] = []
    broker = Imaginary(ONE)
    broker.connection._on_open = told.append
    assert broker.established() is cast(Any, told[0])


def test_after_a_success_the_first_pause_is_short_again() -> None:
    broker = Imaginary(ONE)
    broker.dead.add(ONE)
    while len(broker.asked) < 4:
        broker.connection.established()
    broker.dead.clear()
    broker.established()
    broker.connection.drop()
    broker.dead.add(ONE)
    assert broker.connection.established() is None
    started = time.monotonic()
    asked = len(broker.asked)
    while len(broker.asked) == asked:
        broker.connection.established()
    assert time.monotonic() - started < 0.7
