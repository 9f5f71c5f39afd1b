"""Ids that come again, after TRUNCATE ... RESTART IDENTITY: a message has a message_id, too."""

from __future__ import annotations

from pika.adapters.blocking_connection import BlockingChannel

from support.outbox import dead, in_outbox, put, settle
from support.sessions import Session

RESTART = "TRUNCATE amqp.outbox RESTART IDENTITY"


def outcome(session: Session, delivered: list[str], refused: list[str]) -> None:
    """Settle message 1 and 2 by message_id, as of before the ids began anew."""
    session.execute(
        "SELECT amqp_inner.outbox_settle(1, %s, %s, %s, %s, %s, %s)",
        [
            [1] * len(delivered),
            delivered,
            [2] * len(refused),
            refused,
            ["invalid"] * len(refused),
            ["no"] * len(refused),
        ],
    )


def test_what_came_later_with_the_same_id_is_not_settled(session: Session) -> None:
    for name in ("a", "b"):
        put(session, "old", message_id=name)
    session.execute(RESTART)
    for name in ("c", "d"):
        put(session, "new", message_id=name)
    for keep in ("0", "1 day"):
        session.execute("SELECT set_config('amqp.keep_delivered', %s, false)", [keep])
        outcome(session, ["a"], ["b"])
        assert in_outbox(session, "id, message_id, attempts") == [(1, "c", 0), (2, "d", 0)]
        assert dead(session) == []
    outcome(session, ["c"], ["d"])
    assert in_outbox(session) == []
    assert dead(session, "id, message_id") == [(2, "d")]


def test_dead_letters_whose_ids_came_again(session: Session, channel: BlockingChannel) -> None:
    for name in ("a", "b", "c", "d"):
        put(session, name, message_id=name)
    settle(session, refused=[(number, "invalid", "no") for number in (1, 2, 4)])
    session.execute(RESTART)
    put(session, "e", message_id="e")
    # Two dead letters of one id.
    put(session, "f", message_id="f")
    settle(session, refused=[(2, "invalid", "no")])
    assert dead(session, "id, message_id") == [(1, "a"), (2, "b"), (2, "f"), (4, "d")]
    assert session.execute("SELECT amqp.retry_dead_letters()").fetchone() == (4,)
    found = dict(in_outbox(session, "message_id, id"))
    # 1 is taken; 2 is free, once; what the sequence has yet to come to is given to nobody.
    assert found["e"] == 1
    assert sorted([found["b"], found["f"]])[0] == 2
    assert len(set(found.values())) == 5
    before = set(found.values())
    for number in range(10):
        assert put(session, number) not in before


def test_a_dead_letter_keeps_its_place_where_it_can(session: Session) -> None:
    for name in ("a", "b", "c"):
        put(session, name, message_id=name, ordering_key="k")
    settle(session, refused=[(1, "invalid", "no")])
    session.execute("SELECT amqp.retry_dead_letters()")
    assert in_outbox(session, "id, message_id") == [(1, "a"), (2, "b"), (3, "c")]
