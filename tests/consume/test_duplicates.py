"""Copies of messages: told by the ledger, in one batch and far apart, and forgotten in time."""

from __future__ import annotations

import json

import pytest

from pg_amqp_py.wire.consume.delivery import Delivery
from support.sessions import Session, session_fixture
from support.storing import Storing, consume_into, counted, dead, message, storing

session = session_fixture()


def taken(session: Session) -> list[str]:
    """What is in the inbox, in order."""
    return [
        b for (b,) in session.run("SELECT convert_from(body, 'UTF8') FROM amqp.inbox ORDER BY id")
    ]


def remembered(session: Session) -> list[str]:
    return [m for (m,) in session.run("SELECT message_id FROM amqp.inbox_seen ORDER BY 1")]


def test_a_copy_is_passed_over_in_one_batch_and_in_the_next(
    session: Session, database: str
) -> None:
    consume_into(session)
    with storing(database) as one:
        done = one.put(
            message("1", message_id="a"), message("2", message_id="b"), message("3", message_id="a")
        )
        assert (done.stored, done.duplicates) == (2, 1)
        done = one.put(message("4", message_id="b"), message("5", message_id="c"))
        assert (done.stored, done.duplicates) == (1, 1)
    assert taken(session) == ["1", "2", "5"]
    assert counted(session) == (3, 2, 0)


def test_the_ledgers_of_consumers_are_their_own(session: Session, database: str) -> None:
    consume_into(session)
    consume_into(session, name="d")
    for name in ("c", "d", "c"):
        with storing(database, name) as one:
            one.put(message(name, message_id="a"))
    assert taken(session) == ["c", "d"]


def test_without_a_message_id_every_one_is_stored_and_counted(
    session: Session, database: str
) -> None:
    consume_into(session)
    with storing(database) as one:
        one.put(
            message("1"), message("1"), message("2", message_id=""), message("3", message_id="a")
        )
    assert taken(session) == ["1", "1", "2", "3"]
    assert counted(session) == (4, 0, 3)


KEYS = [
    ("headers.key", [message("1", headers={"key": k}) for k in ("a", "b", "a")]),
    ('headers."x.y".0', [message("1", headers={"x.y": [k]}) for k in (1, 2, 1)]),
    ("body.order.id", [message(json.dumps({"order": {"id": k}})) for k in (1, 2, 1)]),
    ("body.order", [message(json.dumps({"order": {"b": 1, "a": k}})) for k in (1, 2, 1)]),
    ("body", [message(k) for k in ("a", "b", "a")]),
    ("correlation_id", [message(correlation_id=k) for k in ("a", "b", "a")]),
    ("routing_key", [message("", k) for k in ("a", "b", "a")]),
    ("timestamp", [message(timestamp=k) for k in (1, 2, 1)]),
    ("priority", [message(priority=k) for k in (1, 2, 1)]),
    ("mqtt_topic[2]", [message("", f"x.{k}") for k in ("a", "b", "a")]),
    ("headers", [message(headers={"a": k}) for k in (1, 2, 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("by", "messages"), KEYS, ids=[by for by, _ in KEYS])
def test_anything_can_tell_a_copy(
    session: Session, database: str, by: str, messages: list[Delivery]
) -> None:
    consume_into(session, deduplicate_by=by)
    with storing(database) as one:
        done = one.put(*messages)
        assert (done.stored, done.duplicates) == (2, 1)
        assert one.put(messages[1]).duplicates == 1
        # The message_id is not what counts.
        assert one.put(messages[0]._replace(redelivered=True)).duplicates == 1
    assert len(remembered(session)) == 2


def test_none_tells_none(session: Session, database: str) -> None:
    consume_into(session, deduplicate_by="none")
    with storing(database) as one:
        one.put(message("1", message_id="a"), message("1", message_id="a"))
    assert taken(session) == ["1", "1"]
    assert (remembered(session), counted(session)) == ([], (2, 0, 0))


def test_what_tells_a_copy_may_be_long(session: Session, database: str) -> None:
    consume_into(session, deduplicate_by="headers.key")
    key = "".join(chr(0x4E00 + n % 5000) for n in range(200_000))
    with storing(database) as one:
        done = one.put(*(message(headers={"key": k}) for k in (key, key + "x", key, "x" * 255)))
        assert (done.stored, done.duplicates, done.dead) == (3, 1, 0)
        assert one.put(message(headers={"key": key})).duplicates == 1


def test_a_key_in_a_body_that_is_no_json_is_the_message_s_own_fault(
    session: Session, database: str
) -> None:
    consume_into(session, deduplicate_by="body.id")
    with storing(database) as one:
        done = one.put(message("{"), message('{"id": 1}'), message("{}"))
    assert (done.stored, done.dead, done.without_id) == (2, 1, 1)
    assert dead(session) == ["22P02"]


def test_a_copy_of_a_dead_message_is_no_second_one(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    bad = message("bad", message_id="a")
    with storing(database) as one:
        done = one.put(bad, message('{"id": 1}'), bad)
        assert (done.stored, done.dead, done.duplicates) == (1, 1, 1)
        assert one.put(bad, message("worse", message_id="a")).duplicates == 2
        # A good one of the same id is a copy as well.
        assert one.put(message('{"id": 2}', message_id="a")).duplicates == 1
    assert dead(session, "body") == [b"bad"]
    assert counted(session) == (1, 4, 1)


def test_a_copy_of_a_message_that_cannot_even_be_staged_is_no_second_one(
    session: Session, database: str
) -> None:
    consume_into(session)
    bad = message("bad", message_id="a", app_id=b"\xff")
    with storing(database) as one:
        done = one.put(bad, message(), bad)
        assert (done.stored, done.dead, done.duplicates) == (1, 1, 1)
        assert one.put(bad).duplicates == 1
    assert dead(session, "body") == [b"bad"]


def test_a_duplicate_is_not_looked_into(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.put(message('{"id": 1}', message_id="a"))
        done = one.put(message("bad", message_id="a"), message('{"id": 2}', message_id="b"))
    assert (done.stored, done.duplicates, done.dead) == (1, 1, 0)


def test_what_was_rolled_back_is_not_remembered(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.look()
        one.ask("SET default_transaction_read_only = on")
        with pytest.raises(Exception, match="read-only"):
            one.put_on(message('{"id": 1}', message_id="a"))
        one.ask("SET default_transaction_read_only = off")
        assert one.put_on(message('{"id": 1}', message_id="a")).stored == 1


# ---- Forgetting ----


def test_the_ledger_forgets_what_is_too_long_ago_and_no_more(
    session: Session, database: str
) -> None:
    consume_into(session)
    with storing(database) as one:
        one.put(*(message(message_id=f"{n}") for n in range(10)))
        session.run(
            "UPDATE amqp.inbox_seen SET seen_at = now() - message_id::integer * interval '1 hour'"
        )
        session.run("INSERT INTO amqp.inbox_seen VALUES ('d', 'old', '2020-01-01')")
        assert one.inbox.forget("4 hours 30 minutes", 3) == 3
        assert remembered(session) == ["0", "1", "2", "3", "4", "5", "6", "old"]
        assert one.inbox.forget("4 hours 30 minutes", 3) == 2
        assert one.inbox.forget("4 hours 30 minutes", 3) == 0
        assert remembered(session) == ["0", "1", "2", "3", "4", "old"]
        assert one.put(message(message_id="7"), message(message_id="3")).stored == 1


@pytest.mark.parametrize("age", ["100 years", "1 microsecond", "1 year 2 mons -3 days"])
def test_any_time_to_remember_can_be_forgotten_by(
    session: Session, database: str, age: str
) -> None:
    consume_into(session, deduplicate_for=age)
    with storing(database) as one:
        one.put(message(message_id="a"))
        one.inbox.forget(one.look().deduplicate_for, 10)
    assert remembered(session) == ([] if age == "1 microsecond" else ["a"])


def size_after(session: Session, one: Storing, first: int, rounds: int) -> int:
    """The size of the ledger after so many rounds of coming and going."""
    for number in range(first, first + rounds):
        one.put_on(*(message(message_id=f"{number}-{n}") for n in range(1000)))
        session.run("UPDATE amqp.inbox_seen SET seen_at = '2020-01-01'")
        assert one.inbox.forget("1 day", 10_000) == 1000
        session.run("VACUUM amqp.inbox_seen")
    size: int = session.value("SELECT pg_total_relation_size('amqp.inbox_seen')")
    return size


def test_the_ledger_does_not_grow_by_what_it_has_forgotten(session: Session, database: str) -> None:
    consume_into(session)
    with storing(database) as one:
        one.look()
        before = size_after(session, one, 0, 3)
        assert size_after(session, one, 3, 9) <= 2 * before
