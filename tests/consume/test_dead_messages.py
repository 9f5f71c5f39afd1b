"""Messages that were set aside: kept whole, tried again, and discarded."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from pika.data import decode_table

from pg_amqp_py.wire.consume.delivery import Delivery
from pg_amqp_py.wire.consume.properties import split_properties
from support.sessions import Session, session_fixture
from support.storing import ARRIVED, consume_into, counted, dead, message, storing

session = session_fixture()

KEPT = "exchange, routing_key, message_id, app_id, headers, body, raw_place, raw_properties"


def one_dead(
    session: Session, database: str, given: Delivery, columns: str = KEPT
) -> tuple[object, ...]:
    """Set a message aside, and return what was kept of it."""
    session.run("CREATE TABLE IF NOT EXISTS t (id integer, note text)")
    session.run("DELETE FROM amqp.consumer; TRUNCATE amqp.inbox_dead, amqp.inbox_seen")
    consume_into(session, "t", columns={"id": "body.id", "note": "message_id"})
    with storing(database) as one:
        done = one.put(message('{"id": 1}'), given, message('{"id": 2}'))
    assert (done.stored, done.dead) == (2, 1)
    (row,) = session.run(f"SELECT {columns} FROM amqp.inbox_dead")
    return row


def place(exchange: bytes, key: bytes) -> bytes:
    return bytes([len(exchange)]) + exchange + bytes([len(key)]) + key


def test_all_of_it_is_kept_in_columns(session: Session, database: str) -> None:
    given = message(
        "bad", "k", "e", redelivered=True, content_type="a/b", content_encoding="gzip",
        headers={"a": [1, {"b": None}]}, delivery_mode=1, priority=3, correlation_id="c",
        reply_to="r", expiration="1", message_id="m", timestamp=1_790_000_000, type="t",
        user_id="u", app_id="a", cluster_id="cl",
    )  # fmt: skip
    row = one_dead(session, database, given, "*")
    moment, arrived = (datetime.fromtimestamp(s, UTC) for s in (1_790_000_000, ARRIVED))
    assert row[1:4] == ("c", "22P02", row[3])
    assert str(row[3]).startswith("invalid input syntax for type json; Token ")
    assert row[4:26] == (
        1, "q", "e", "k", True, "a/b", "gzip", {"a": [1, {"b": None}]}, 1, 3, "c", "r", "1", "m",
        moment, "t", "u", "a", "cl", b"bad", arrived, None,
    )  # fmt: skip
    assert row[27:] == (1, False, place(b"e", b"k"), given.properties)


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\xff" * 1000, b'{"id": "\\u0000"}', b"\xef\xbb\xbf1"]
)
def test_the_body_is_kept_as_it_came(session: Session, database: str, body: bytes) -> None:
    assert one_dead(session, database, message(body), "body") == (body,)


def test_a_body_of_20_mb_is_kept(session: Session, database: str) -> None:
    body = b"x" * 20_000_000
    assert one_dead(session, database, message(body), "octet_length(body)") == (len(body),)


def test_texts_that_are_none_are_shown_by_escapes_and_kept_as_they_came(
    session: Session, database: str
) -> None:
    table = b"\x02\xffkS\0\0\0\x02\xfe\0" + b"\1xx\0\0\0\1\xff"
    raw = b"\0\0\0" + bytes([len(table)]) + table
    given = message(
        '{"id": 1}', b"k\xff\0", b"e\xfe", headers=raw, message_id=b"m\0\xff", app_id=b"\xc3"
    )
    row = one_dead(session, database, given)
    assert row == (
        "e\\xfe",
        "k\\xff\\x00",
        "m\\x00\\xff",
        "\\xc3",
        {"\\xffk": "\\xfe\\x00", "x": "\\xff"},
        b'{"id": 1}',
        place(b"e\xfe", b"k\xff\0"),
        given.properties,
    )
    assert split_properties(given.properties).message_id == b"m\0\xff"


@pytest.mark.parametrize(
    "name",
    ["content_type", "correlation_id", "reply_to", "expiration", "type", "user_id", "cluster_id"],
)
@pytest.mark.parametrize("wrong", [b"\xff", b"\0"])
def test_a_property_that_is_no_text_dies_where_it_is_asked_for(
    session: Session, database: str, name: str, wrong: bytes
) -> None:
    consume_into(session)
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t", name="t", columns={"id": "body"})
    properties: Any = {name: wrong}
    given = message("1", **properties)
    with storing(database) as one:
        assert one.put(message("2"), given).dead == 1
    assert dead(session) == ["22021"]
    with storing(database, "t") as one:
        # Nobody asks for it here.
        assert one.put(given).stored == 1


def test_properties_that_are_no_amqp_are_kept(session: Session, database: str) -> None:
    consume_into(session)
    wrong = [
        message(b"x")._replace(properties=b"\x80\0\xff"),
        message(b"x")._replace(properties=b"\0\1"),
        message(b"x")._replace(properties=b""),
        message(b"x", headers=b"\0\0\0\5\1aQ\0\0"),
        message(b"x", headers=b"\0\0\0\xff\1aV"),
    ]
    with storing(database) as one:
        done = one.put(message("1"), *wrong, message("2"))
        # The last one alone, and all alone.
        done += one.put(wrong[0])
    assert (done.stored, done.dead) == (2, 6)
    assert dead(session, "sqlstate, raw_properties")[:5] == [
        ("22P03", given.properties) for given in wrong
    ]


def test_a_time_that_no_timestamp_holds_dies_where_it_is_asked_for(
    session: Session, database: str
) -> None:
    consume_into(session)
    with storing(database) as one:
        for seconds in (0, 2**32, 1_790_000_000_000, 1_790_000_000_000_000, 2**63, 2**64 - 1):
            one.put(message(str(seconds), timestamp=seconds))
    assert dead(session, "sqlstate, convert_from(body, 'UTF8')") == [
        ("22008", str(seconds)) for seconds in (1_790_000_000_000_000, 2**63, 2**64 - 1)
    ]


def test_headers_deeper_than_anybody_looks_die_alone(session: Session, database: str) -> None:
    consume_into(session)
    table = b"\1aV"
    for _ in range(2000):
        table = b"\1aF" + len(table).to_bytes(4) + table
    given = message(headers=len(table).to_bytes(4) + table)
    with storing(database) as one:
        done = one.put(message("1"), given, message("2"))
    assert (done.stored, done.dead) == (2, 1)
    assert dead(session, "sqlstate, headers, raw_properties") == [("22P03", None, given.properties)]


def test_what_was_kept_is_the_message_to_the_last_bit(session: Session, database: str) -> None:
    given = message("bad", headers={"a": 1, "t": True, "l": [1, "x"], "d": {"k": None}})
    (raw,) = one_dead(session, database, given, "raw_properties")
    assert isinstance(raw, bytes)
    headers = split_properties(raw).headers
    assert headers is not None
    assert decode_table(headers, 0)[0] == {"a": 1, "t": True, "l": [1, "x"], "d": {"k": None}}


# ---- Trying again, discarding ----


def test_what_is_tried_again_passes_the_ledger_and_leaves(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    bad = [message(json.dumps({"id": n, "x": 1}), message_id=str(n)) for n in (2**40, 2**41)]
    with storing(database) as one:
        one.put(*bad, message('{"id": "x"}', message_id="x"), message("{}"))
        assert dead(session) == ["22003", "22003", "22P02"]
        assert one.inbox.asked_for(10) is None
        session.run("ALTER TABLE t ALTER id TYPE bigint")
        assert session.value("SELECT amqp.retry_dead_messages('c')") == 3
        done = one.retry()
        assert (done.stored, done.duplicates, done.dead) == (2, 0, 0)
        # Their copies are copies still.
        assert one.put(*bad).duplicates == 2
        assert one.inbox.asked_for(10) is None
    assert session.run("SELECT id FROM t WHERE id IS NOT NULL") == [(2**40,), (2**41,)]
    assert dead(session, "sqlstate, attempts, retry") == [("22P02", 2, False)]
    assert counted(session) == (3, 2, 1)


def test_ids_say_which(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    consume_into(session, "t", name="d")
    for name in ("c", "d"):
        with storing(database, name) as one:
            one.put(*(message(f'"{n}"') for n in range(4)))
    first, second, *_ = dead(session, "id")
    (other, *_) = dead(session, "id", "d")
    assert session.value(f"SELECT amqp.retry_dead_messages('c', '{{{second},{other},999}}')") == 1
    assert dead(session, "retry") == [False, True, False, False]
    assert dead(session, "retry", "d") == [False] * 4
    assert session.value(f"SELECT amqp.discard_dead_messages('c', '{{{first},{other}}}')") == 1
    assert session.value("SELECT amqp.discard_dead_messages('c')") == 3
    assert session.value("SELECT amqp.discard_dead_messages('nobody')") == 0
    assert (dead(session), len(dead(session, consumer="d"))) == ([], 4)


def test_they_are_tried_in_the_order_in_which_they_died_and_in_bounded_batches(
    session: Session, database: str
) -> None:
    session.run("CREATE TABLE ready (); CREATE TABLE called (nr serial, n text)")
    session.run(
        """CREATE FUNCTION f(m amqp.message) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
               IF NOT EXISTS (SELECT FROM public.ready) THEN RAISE 'not yet'; END IF;
               INSERT INTO public.called (n) VALUES (m.message_id); END $$"""
    )
    consume_into(session, "f(amqp.message)", batch_size=4)
    with storing(database) as one:
        one.put(*(message(message_id=str(n)) for n in range(10)))
        session.run("INSERT INTO ready DEFAULT VALUES; SELECT amqp.retry_dead_messages('c')")
        assert [one.retry().stored for _ in range(3)] == [4, 4, 2]
    assert [n for (n,) in session.run("SELECT n FROM called ORDER BY nr")] == [*"0123456789"]


def test_no_more_is_read_at_once_than_memory_has_room_for(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        for size in (20_000_000, 9_000_000, 9_000_000, 9_000_000, 1, 1):
            one.put(message(b"x" * size))
        session.run("SELECT amqp.retry_dead_messages('c')")
        sizes = []
        while (batch := one.inbox.asked_for(1000)) is not None:
            sizes.append([len(d.body) for d in batch.deliveries])
            one.put_batch(batch)
    assert sizes == [[20_000_000], [9_000_000, 9_000_000], [9_000_000, 1, 1]]


def test_what_is_discarded_while_it_is_tried_again_is_not_stored(
    session: Session, database: str
) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.put(*(message(json.dumps({"id": 2**40 + n})) for n in range(3)))
        session.run("ALTER TABLE t ALTER id TYPE bigint; SELECT amqp.retry_dead_messages('c')")
        one.look()
        batch = one.inbox.asked_for(10)
        assert batch is not None
        _, gone, _ = dead(session, "id")
        session.run(f"SELECT amqp.discard_dead_messages('c', '{{{gone}}}')")
        assert one.put_batch(batch).stored == 2
        session.run("SELECT amqp.discard_dead_messages('c')")
        # Stored already; nothing is done twice.
        assert one.put_batch(batch).stored == 0
    assert session.run("SELECT id - 2 ^ 40 FROM t ORDER BY id") == [(0,), (2,)]


def test_what_is_tried_again_and_is_nobodys_fault_stays_asked_for(
    session: Session, database: str
) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.put(message("bad"))
        session.run("SELECT amqp.retry_dead_messages('c')")
        one.look()
        batch = one.inbox.asked_for(10)
        assert batch is not None
        one.ask("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            one.put_batch(batch)
    assert dead(session, "retry, attempts") == [(True, 1)]


def test_where_they_cannot_be_set_aside_nothing_is_lost(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.look()
        session.run("ALTER TABLE amqp.inbox_dead ADD CHECK (false) NOT VALID")
        with pytest.raises(psycopg.errors.CheckViolation):
            one.put_on(message('{"id": 1}'), message("bad"), message('{"id": 2}'))
        assert session.run("SELECT count(*) FROM amqp.inbox_dead") == [(0,)]
        session.run("ALTER TABLE amqp.inbox_dead DROP CONSTRAINT inbox_dead_check")


def test_a_dead_message_shows_in_the_status(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.put(message("bad"), message("{}"), message("{}", message_id="a"))
        one.put(message("{}", message_id="a"))
        ((running, *numbers),) = session.run(
            "SELECT running, stored, duplicates, dead, skipped FROM amqp.inbox_status()"
        )
        assert (running.split()[:2], numbers) == (["pg-amqp", "consume"], [2, 1, 1, 0])
    session.run("SELECT amqp.discard_dead_messages('c')")
    assert session.value("SELECT dead FROM amqp.inbox_status()") == 0
