"""Rows whose key is in the table already: error, ignore, update, and redelivery."""

from __future__ import annotations

import json

import pytest

from pg_amqp_py.wire.consume.delivery import Delivery
from support.sessions import Session, session_fixture
from support.storing import Storing, consume_into, counted, dead, message, storing

session = session_fixture()

TABLE = "CREATE TABLE t (id integer PRIMARY KEY, note text, size integer UNIQUE)"


def order(number: int, note: str, *, redelivered: bool = False, **more: object) -> Delivery:
    return message(json.dumps({"id": number, "note": note, **more}), redelivered=redelivered)


def rows(session: Session) -> list[tuple[int, str]]:
    return [(a, b) for a, b in session.run("SELECT id, note FROM t ORDER BY id")]


def together_and_apart(one: Storing, *deliveries: Delivery) -> None:
    """Store the first of these alone, and the others in one batch."""
    one.put(deliveries[0])
    one.put(*deliveries[1:])


@pytest.mark.parametrize("columns", [None, {"id": "body.id", "note": "body.note"}])
def test_error_sets_the_later_one_aside(
    session: Session, database: str, columns: dict[str, str] | None
) -> None:
    session.run(TABLE)
    consume_into(session, "t", columns=columns)
    with storing(database) as one:
        together_and_apart(
            one, order(1, "a"), order(1, "b"), order(2, "c"), order(2, "d"), order(3, "e")
        )
    assert rows(session) == [(1, "a"), (2, "c"), (3, "e")]
    assert dead(session, "sqlstate, convert_from(body, 'UTF8')::jsonb ->> 'note'") == [
        ("23505", "b"),
        ("23505", "d"),
    ]
    assert counted(session) == (3, 0, 3)


@pytest.mark.parametrize("columns", [None, {"id": "body.id", "note": "body.note"}])
def test_ignore_keeps_the_first(
    session: Session, database: str, columns: dict[str, str] | None
) -> None:
    session.run(TABLE)
    consume_into(session, "t", columns=columns, on_conflict="ignore")
    with storing(database) as one:
        together_and_apart(one, order(1, "a"), order(1, "b"), order(2, "c"), order(2, "d"))
    assert rows(session) == [(1, "a"), (2, "c")]
    assert (dead(session), counted(session)) == ([], (2, 2, 4))


@pytest.mark.parametrize("columns", [None, {"id": "body.id", "note": "body.note"}])
def test_update_has_the_last_one_count(
    session: Session, database: str, columns: dict[str, str] | None
) -> None:
    session.run(TABLE)
    consume_into(session, "t", columns=columns, on_conflict="update")
    with storing(database) as one:
        together_and_apart(
            one, order(1, "a"), order(2, "b"), order(1, "c"), order(2, "d"), order(1, "e")
        )
    assert rows(session) == [(1, "e"), (2, "d")]
    assert (dead(session), counted(session)) == ([], (5, 0, 5))


def test_update_by_a_constraint_that_is_named(session: Session, database: str) -> None:
    session.run(TABLE)
    consume_into(session, "t", on_conflict="update", conflict_constraint="t_size_key")
    with storing(database) as one:
        one.put(order(1, "a", size=10), order(2, "b", size=20), order(3, "c", size=10))
    assert session.run("SELECT * FROM t ORDER BY size") == [(3, "c", 10), (2, "b", 20)]


def test_update_by_a_key_of_several_columns_in_another_order(
    session: Session, database: str
) -> None:
    session.run("CREATE TABLE t (a text, v integer, b date, PRIMARY KEY (b, a))")
    consume_into(session, "t", on_conflict="update")
    with storing(database) as one:
        one.put(
            message('{"a": "x", "b": "2026-01-01", "v": 1}'),
            message('{"a": "x", "b": "2026-01-02", "v": 2}'),
            message('{"a": "x", "b": "2026-01-01", "v": 3}'),
        )
    assert session.run("SELECT v FROM t ORDER BY b") == [(3,), (2,)]


def test_update_keeps_the_columns_that_no_message_fills(session: Session, database: str) -> None:
    session.run(TABLE)
    session.run("INSERT INTO t VALUES (1, 'mine', 5)")
    sources = {"id": "body.id", "size": "body.size"}
    consume_into(session, "t", columns=sources, on_conflict="update")
    with storing(database) as one:
        one.put(order(1, "theirs", size=6))
    assert session.run("SELECT * FROM t") == [(1, "mine", 6)]


def test_update_of_a_partitioned_table(session: Session, database: str) -> None:
    session.run(
        """CREATE TABLE t (id integer PRIMARY KEY, note text) PARTITION BY HASH (id);
           CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
           CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)"""
    )
    consume_into(session, "t", on_conflict="update")
    with storing(database) as one:
        together_and_apart(one, order(1, "a"), order(2, "b"), order(1, "c"))
    assert rows(session) == [(1, "c"), (2, "b")]


def test_null_is_no_key(session: Session, database: str) -> None:
    session.run(TABLE)
    for on_conflict in ("error", "ignore", "update"):
        consume_into(session, "t", name=on_conflict, on_conflict=on_conflict)
        with storing(database, on_conflict) as one:
            assert one.put(message("{}")).dead == 1
        assert dead(session, consumer=on_conflict) == ["23502"]


# ---- A redelivery without anything to tell it by ----


@pytest.mark.parametrize("columns", [None, {"id": "body.id", "note": "body.note"}])
def test_an_identical_row_is_the_redelivery_that_it_is(
    session: Session, database: str, columns: dict[str, str] | None
) -> None:
    session.run(TABLE)
    consume_into(session, "t", columns=columns)
    with storing(database) as one:
        one.put(order(1, "a"), order(2, "b"))
        done = one.put(
            order(1, "a", redelivered=True),
            order(2, "other", redelivered=True),
            order(3, "c", redelivered=True),
        )
    assert (done.stored, done.duplicates, done.dead) == (1, 1, 1)
    assert rows(session) == [(1, "a"), (2, "b"), (3, "c")]
    # The same once more is no redelivery.
    with storing(database) as one:
        assert one.put(order(1, "a")).dead == 1


def test_an_identical_row_is_told_in_columns_of_every_kind(session: Session, database: str) -> None:
    session.run(
        """CREATE DOMAIN money2 AS numeric(7,2);
           CREATE TABLE t (
               id integer PRIMARY KEY, a numeric(5,1), b varchar(5), c char(5), d jsonb, e json,
               f integer[], g timestamptz(0), h money2, i bytea, j double precision, k bit(3),
               l varbit(5), m text, nr serial, o timestamptz DEFAULT now(), p text DEFAULT 'p')"""
    )
    consume_into(session, "t")
    body = {
        "id": 1, "a": 1.25, "b": "ab", "c": "abc", "d": {"b": 1, "a": [2]}, "e": {"b": 1, "a": 2},
        "f": [1, 2], "g": "2026-01-01T00:00:00.4Z", "h": 5, "i": "\\x00", "j": 0.1, "k": "101",
        "l": "10",
    }  # fmt: skip
    with storing(database) as one:
        assert one.put(message(json.dumps(body))).stored == 1
        again = one.put(message(json.dumps(body), redelivered=True))
        assert (again.duplicates, dead(session, "error")) == (1, [])
        for name, value in {"a": 1.35, "d": {"b": 2}, "f": None, "m": "x", "p": "q"}.items():
            changed = json.dumps({**body, name: value})
            assert one.put(message(changed, redelivered=True)).dead == 1, name


def test_what_is_too_long_is_not_identical_to_what_was_cut(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer PRIMARY KEY, v varchar(2), b bit varying(2), k bit(2))")
    session.run("INSERT INTO t VALUES (1, 'ab', '10', '10')")
    good = {"id": 1, "v": "ab", "b": "10", "k": "10"}
    consume_into(session, "t", columns={name: f"body.{name}" for name in good})
    with storing(database) as one:
        for wrong in ({"v": "abc"}, {"b": "101"}, {"k": "101"}):
            one.put(message(json.dumps({**good, **wrong}), redelivered=True))
        assert dead(session) == ["22001", "22001", "22026"]
        assert one.put(message(json.dumps(good), redelivered=True)).duplicates == 1


def test_times_of_arrival_do_not_make_a_row_another_one(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer PRIMARY KEY, at timestamptz, again boolean)")
    consume_into(session, "t", columns={"id": "body", "at": "now", "again": "redelivered"})
    with storing(database) as one:
        one.put(message("1"))
        assert one.put(message("1", redelivered=True)).duplicates == 1


def test_a_table_without_a_key_takes_a_redelivery_twice(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer, note text)")
    consume_into(session, "t")
    with storing(database) as one:
        one.put(order(1, "a"))
        one.put(order(1, "a", redelivered=True))
    assert rows(session) == [(1, "a"), (1, "a")]
    assert counted(session) == (2, 0, 2)
