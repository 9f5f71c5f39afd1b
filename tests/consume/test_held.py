"""What was received and is not stored yet: order, bounds, and what is put back."""

from __future__ import annotations

from pg_amqp_daemon.consume.held import Held
from pg_amqp_py.wire.consume.delivery import Delivery
from support.deliveries import seeded


def delivery(tag: int, size: int = 10) -> Delivery:
    return Delivery(tag, False, b"", b"key", b"\0\0", b"x" * size)


def add(held: Held, *deliveries: Delivery, now: float = 0.0) -> None:
    held.add(list(deliveries), now, sum(len(one.body) for one in deliveries))


def tags(taken: tuple[list[Delivery], list[float]]) -> list[int]:
    return [one.tag for one in taken[0]]


def test_messages_are_taken_in_order_and_as_many_as_are_wanted() -> None:
    held = Held()
    add(held, *map(delivery, range(5)), now=1.0)
    add(held, *map(delivery, range(5, 8)), now=2.0)
    assert (held.count, held.oldest) == (8, 1.0)
    assert tags(held.take(3, 1 << 20)) == [0, 1, 2]
    deliveries, received = held.take(4, 1 << 20)
    assert [one.tag for one in deliveries] == [3, 4, 5, 6]
    assert received == [1.0, 1.0, 2.0, 2.0]
    assert (held.count, held.oldest) == (1, 2.0)
    assert tags(held.take(4, 1 << 20)) == [7]
    assert (held.count, held.size, held.oldest) == (0, 0, None)
    assert tags(held.take(4, 1 << 20)) == []


def test_a_batch_has_no_more_bytes_than_are_wanted_but_one_message_at_least() -> None:
    held = Held()
    add(held, delivery(1, 5000), delivery(2, 5000), delivery(3, 50_000), delivery(4, 10))
    assert tags(held.take(10, 11_000)) == [1, 2]
    assert tags(held.take(10, 11_000)) == [3]
    assert tags(held.take(10, 11_000)) == [4]


def test_what_is_put_back_comes_first() -> None:
    held = Held()
    add(held, *map(delivery, range(4)), now=1.0)
    taken = held.take(2, 1 << 20)
    held.put_back(*taken)
    assert (held.count, held.oldest) == (4, 1.0)
    assert tags(held.take(10, 1 << 20)) == [0, 1, 2, 3]


def test_nothing_is_left_of_what_is_forgotten() -> None:
    held = Held()
    add(held, delivery(1))
    held.clear()
    assert (held.count, held.size, held.oldest) == (0, 0, None)


def test_whatever_is_done_with_them_none_is_lost_and_none_overtakes() -> None:
    rng = seeded()
    held = Held()
    given = taken = 0
    for _ in range(3000):
        if rng.random() < 0.4:
            more = [
                delivery(given + at, rng.choice([0, 10, 3000])) for at in range(rng.randint(1, 9))
            ]
            given += len(more)
            add(held, *more)
            continue
        most, most_bytes = rng.randint(1, 12), rng.choice([1, 5000, 1 << 20])
        deliveries, received = held.take(most, most_bytes)
        assert [one.tag for one in deliveries] == list(range(taken, taken + len(deliveries)))
        assert len(deliveries) <= most
        assert len(received) == len(deliveries)
        assert bool(deliveries) == (taken < given)
        if rng.random() < 0.3:
            held.put_back(deliveries, received)
        else:
            taken += len(deliveries)
        assert held.count == given - taken
        assert held.size >= 0
    assert taken > 1000
