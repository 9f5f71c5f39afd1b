"""What is remembered of connections that are left waiting, without a broker."""

from __future__ import annotations

from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from pg_amqp_daemon.relay import parking as parking_module
from pg_amqp_daemon.relay.outcome import Outcome
from pg_amqp_daemon.relay.parking import Parking
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import StalledError
from pg_amqp_py.wire.fields import FIELDS
from pg_amqp_py.wire.frames import Ack
from pg_amqp_py.wire.pump import Patience, write
from pg_amqp_py.wire.waves import Entry, Run
from support.channel import FakeChannel

ADDRESS = Address("test", 5672, "/", "u", "p")


class Connected(FakeChannel):
    """A channel whose broker confirms nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__(lambda _: "silence")
        self.connection = SimpleNamespace(
            address=ADDRESS, while_waiting=lambda _: None, beat=None, leave=lambda: None
        )


@pytest.fixture
def run() -> Run:
    """Three messages."""
    given = {"exchange": "", "routing_key": "queue", "mandatory": False}
    entries = [
        Entry(
            number,
            None,
            tuple((given | {"message_id": f"m-{number}"}).get(name) for name in FIELDS),
            b"1",
        )
        for number in (1, 2, 3)
    ]
    return Run(entries, Encoder())


@pytest.fixture
def told() -> list[Outcome]:
    return []


@pytest.fixture
def parking(run: Run, told: list[Outcome]) -> Parking:
    """With a connection on which the run was confirmed late."""
    channel = Connected()
    parking = Parking(told.append, structlog.testing.CapturingLogger())
    parking.addresses = [ADDRESS]
    with closing(run.batches(lambda _: None)) as batches:
        with pytest.raises(StalledError):
            write(next(batches), channel, Patience(60))
        parking.park(cast(Any, channel), run)
    assert parking.trouble is not None
    channel.late.answer(Ack(True, 3, multiple=True))
    return parking


def test_what_was_confirmed_late_is_told_and_not_written_again(
    parking: Parking, run: Run, told: list[Outcome]
) -> None:
    parking.look()
    assert parking.trouble is None
    (outcome,) = told
    assert outcome.delivered == [1, 2, 3]
    assert all(parking.why_not(entry) for entry in run.entries)


def test_of_what_was_confirmed_late_not_more_is_remembered_than_fits(
    parking: Parking, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking_module, "_REMEMBERED", 2)
    parking.look()
    # The oldest is the first to be settled.
    assert [parking.why_not(entry) is None for entry in run.entries] == [True, False, False]
