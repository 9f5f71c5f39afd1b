"""What is made of the next messages before they are taken, and when it does not count."""

from __future__ import annotations

from pg_amqp_daemon.consume.ahead import Ahead
from pg_amqp_daemon.consume.batch import Batch, new_batch
from pg_amqp_daemon.consume.held import Held
from pg_amqp_daemon.consume.stage import Stage
from pg_amqp_py.wire.consume.delivery import Delivery
from support.storing import ARRIVED, message

MAKER = object()


def some(*bodies: str) -> list[Delivery]:
    """Messages with these bodies."""
    return [message(body, message_id=body) for body in bodies]


def batch_of(deliveries: list[Delivery], dead: list[int] | None = None) -> Batch:
    """A batch of these."""
    return new_batch(1, deliveries, [ARRIVED] * len(deliveries), dead)


def ahead_of(deliveries: list[Delivery]) -> Ahead[list[bytes]]:
    """Made of these messages: their bodies."""

    def upcoming(most: int, most_bytes: int) -> Batch | None:
        return batch_of(deliveries[:most]) if deliveries else None

    found: Ahead[list[bytes]] = Ahead(upcoming)
    found.make(MAKER, 10, lambda batch: [one.body for one in batch.deliveries])
    return found


def test_what_was_made_of_the_first_messages_is_used_and_the_rest_is_left() -> None:
    """Of whoever has come meanwhile nothing was made."""
    those = some("a", "b", "c")
    made, rest = ahead_of(those[:2]).take(MAKER, batch_of(those))
    assert made == [b"a", b"b"]
    assert rest.deliveries == those[2:]


def test_what_was_made_is_used_once() -> None:
    """A batch that is tried again is made anew."""
    those = some("a")
    ahead = ahead_of(those)
    assert ahead.take(MAKER, batch_of(those))[0] == [b"a"]
    assert ahead.take(MAKER, batch_of(those))[0] is None


def test_what_was_made_of_other_messages_does_not_count() -> None:
    """Others were put back before them, or fewer are taken."""
    those = some("a", "b")
    for taken in (some("z"), those[1:], those[:1], [*some("z"), *those]):
        made, rest = ahead_of(those).take(MAKER, batch_of(taken))
        assert made is None
        assert rest.deliveries == taken


def test_what_was_made_by_another_plan_does_not_count() -> None:
    """It may have other columns."""
    those = some("a")
    assert ahead_of(those).take(object(), batch_of(those))[0] is None


def test_what_was_made_does_not_count_for_dead_messages() -> None:
    """Their rows are others."""
    those = some("a")
    assert ahead_of(those).take(MAKER, batch_of(those, dead=[7]))[0] is None


def test_where_nothing_comes_next_nothing_is_made() -> None:
    """And what was made before is gone."""
    ahead = ahead_of([])
    assert ahead.take(MAKER, batch_of(some("a")))[0] is None


def test_rows_that_are_made_in_two_parts_are_those_that_are_made_at_once() -> None:
    """The numbers go on."""
    stage = Stage("s.message_id s.redelivered s.body", is_stream=False)
    those = some("a", "b", "c")
    parts = stage.rows(batch_of(those[:2])), stage.rows(batch_of(those[2:]), 2)
    assert b"".join(parts) == stage.rows(batch_of(those))


def test_whoever_looks_at_what_comes_next_takes_nothing() -> None:
    """So many, in their order, and whole chunks as far as the bytes allow."""
    held, those = Held(), some("a", "b", "c")
    held.add(those[:2], ARRIVED, 20)
    held.add(those[2:], ARRIVED, 20)
    assert held.begin(10, 1 << 20)[0] == those
    assert held.begin(1, 1 << 20)[0] == those[:1]
    assert held.begin(10, 500)[0] == those[:2]
    assert held.begin(10, 1)[0] == []
    assert held.count == 3
    assert held.take(10, 1 << 20)[0] == those
