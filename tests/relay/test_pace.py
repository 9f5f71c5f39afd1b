"""How many messages are under way at a time."""

from __future__ import annotations

from pg_amqp_daemon.relay.pace import Pace


def test_a_connection_begins_with_few() -> None:
    """Less than RabbitMQ reads of whoever it is about to stop."""
    pace = Pace()
    assert pace.longest() == 250
    pace.adapt(250, 0.1)
    pace.begin()
    assert pace.longest() == 250


def test_what_is_confirmed_quickly_is_followed_by_more() -> None:
    pace = Pace()
    sizes = []
    for _ in range(7):
        pace.adapt(pace.longest(), 0.4)
        sizes.append(pace.longest())
    assert sizes == [500, 1000, 2000, 4000, 8000, 10_000, 10_000]


def test_a_few_messages_say_nothing_of_many() -> None:
    pace = Pace()
    pace.adapt(249, 0.01)
    assert pace.longest() == 250


def test_what_takes_long_is_followed_by_less() -> None:
    pace = Pace()
    for _ in range(3):
        pace.adapt(pace.longest(), 0.1)
    assert pace.longest() == 2000
    pace.adapt(2000, 0.8)
    assert pace.longest() == 2000
    sizes = []
    for _ in range(4):
        pace.adapt(pace.longest(), 1.1)
        sizes.append(pace.longest())
    assert sizes == [1000, 500, 250, 250]
