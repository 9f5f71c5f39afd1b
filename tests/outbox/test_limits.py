"""What is refused at once, also a direct INSERT, and what a look at the outbox may cost."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.types.json import Jsonb

from pg_amqp_py.wire.errors import RangeError
from pg_amqp_py.wire.table import encode_table
from support.outbox import in_outbox, put
from support.sessions import Session, open_session


def nested(levels: int) -> str:
    return '{"a": ' * (levels - 1) + "{}" + "}" * (levels - 1)


REFUSED: dict[str, tuple[str, type[psycopg.Error]]] = {
    "a long key": ('{"%s": 1}' % ("k" * 256), errors.StringDataRightTruncation),
    "a long key below": ('{"a": [{"%s": 1}]}' % ("é" * 128), errors.StringDataRightTruncation),
    "an integer": ('{"a": 9223372036854775809}', errors.NumericValueOutOfRange),
    "an integer below": ('{"a": [{"b": -9223372036854775809}]}', errors.NumericValueOutOfRange),
    "an integer with an exponent": ('{"a": 1e23}', errors.NumericValueOutOfRange),
    "no double": ('{"a": 1.5e400}', errors.NumericValueOutOfRange),
    "CC": ('{"CC": "key"}', errors.InvalidParameterValue),
    "BCC": ('{"BCC": [1]}', errors.InvalidParameterValue),
    "CC that is null": ('{"CC": null}', errors.InvalidParameterValue),
    "nesting": (nested(201), errors.ProgramLimitExceeded),
    "nested arrays": ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", errors.ProgramLimitExceeded),
    "size": ('{"a": "%s"}' % ("x" * 131_000), errors.ProgramLimitExceeded),
    # As text 100,000 bytes, as a table 166,000.
    "the frame": ('{"a": [' + ", ".join(["1"] * 33_000) + "]}", errors.ProgramLimitExceeded),
    "digits": ('{"a": 1e-16000}', errors.ProgramLimitExceeded),
    "no object": ("[1]", errors.InvalidParameterValue),
    "null": ("null", errors.InvalidParameterValue),
}
ALLOWED = {
    "a key": '{"%s": 1}' % ("k" * 255),
    "integers": '{"a": 9223372036854775807, "b": -9223372036854775808}',
    "integers that are doubles": '{"a": 1e20, "b": 9223372036854775808, "c": [-1e22]}',
    "a double": '{"a": 1.5, "b": 12345678901234567890.5}',
    "CC": '{"CC": ["a"], "BCC": []}',
    "CC below": '{"a": {"CC": 1}}',
    "digits in a text": '{"a": "9223372036854775808"}',
    "nesting": nested(200),
    "size": '{"a": "%s"}' % ("x" * 125_000),
    "nothing": "{}",
}
PUBLISH = "SELECT amqp.publish_outbox(1, 'e', 'k', 'm', headers => %s::jsonb)"
INSERT = "INSERT INTO amqp.outbox (broker_id, exchange, headers) VALUES (1, 'e', %s::jsonb)"
WAYS = pytest.mark.parametrize("statement", [PUBLISH, INSERT], ids=["function", "insert"])


@WAYS
@pytest.mark.parametrize("headers", REFUSED)
def test_headers_that_could_never_be_sent(session: Session, statement: str, headers: str) -> None:
    text, kind = REFUSED[headers]
    with pytest.raises(kind):
        session.execute(statement, [text])
    assert in_outbox(session) == []


# What costs a relay much costs publish() nothing.
@pytest.mark.parametrize("headers", sorted(REFUSED.keys() - {"digits", "nesting", "size"}))
def test_publish_refuses_the_same(session: Session, headers: str) -> None:
    text, kind = REFUSED[headers]
    with pytest.raises(kind):
        session.execute(
            "SELECT amqp.publish(1, 'amq.topic', 'k', 'm', headers => %s::jsonb)", [text]
        )


@pytest.mark.parametrize("headers", ALLOWED)
def test_headers_that_can_be_sent_are_delivered(session: Session, headers: str) -> None:
    session.execute(PUBLISH, [ALLOWED[headers]])
    session.execute("UPDATE amqp.outbox SET exchange = 'amq.topic'")
    assert session.execute("SELECT amqp.publish_outbox_batch()").fetchone() == (1,)


def sendable(number: int) -> bool:
    """What wire/table.py says."""
    try:
        encode_table({"a": number}, "headers")
    except RangeError:
        return False
    return True


def test_the_outbox_takes_the_integers_that_publish_takes(session: Session) -> None:
    session.run(
        """
        CREATE FUNCTION taken(number numeric) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM amqp_inner.outbox_check_headers(jsonb_build_object('a', number), 0);
            RETURN true;
        EXCEPTION WHEN numeric_value_out_of_range THEN
            RETURN false;
        END $$
        """
    )
    numbers = [
        sign * (mantissa * 2**exponent + off)
        for sign in (1, -1)
        for mantissa in (1, 3, 2**53 - 1, 2**53, 2**53 + 1)
        for exponent in (10, 11, 12, 62, 63, 64, 100, 970, 971, 972, 1023)
        for off in (-1025, -1, 0, 1, 1024)
    ]
    numbers += [10**n for n in (18, 19, 20, 22, 23, 300, 308, 309)]
    taken = session.run(
        "SELECT taken(n::numeric) FROM unnest(%s::text[]) WITH ORDINALITY AS g (n, at) ORDER BY at",
        [str(number) for number in numbers],
    )
    assert [one for (one,) in taken] == [sendable(number) for number in numbers]


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("broker_id", None, errors.NullValueNotAllowed),
        ("delivery_mode", 3, errors.InvalidParameterValue),
        ("priority", -1, errors.InvalidParameterValue),
        ("expiration", "4294967296", errors.InvalidParameterValue),
        ("expiration", "1s", errors.InvalidParameterValue),
        ("reply_to", "amq.rabbitmq.reply-to", errors.InvalidParameterValue),
        ("routing_key", "é" * 128, errors.StringDataRightTruncation),
        ("app_id", "a" * 256, errors.StringDataRightTruncation),
        ("timestamp", "1969-12-31+00", errors.InvalidParameterValue),
        ("timestamp", "infinity", errors.InvalidParameterValue),
        ("next_attempt_at", "infinity", errors.InvalidParameterValue),
        ("next_attempt_at", "-infinity", errors.InvalidParameterValue),
    ],
)
def test_a_direct_insert_is_refused_the_same(
    session: Session, column: str, value: Any, kind: type[psycopg.Error]
) -> None:
    values = {"broker_id": 1, "exchange": "e", column: value}
    names = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(["%s"] * len(values))
    query = f"INSERT INTO amqp.outbox ({names}) VALUES ({places})"
    with pytest.raises(kind):
        session.execute(query.encode(), list(values.values()))


def test_a_latin1_database_counts_bytes_as_they_are_sent(session: Session) -> None:
    name = f"{session.info.dbname}_latin1"
    session.execute(
        f"CREATE DATABASE {name} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0".encode()
    )
    try:
        dsn = session.info.dsn.replace(f"dbname={session.info.dbname}", f"dbname={name}")
        with open_session(dsn) as latin1:
            latin1.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            with pytest.raises(errors.StringDataRightTruncation):
                put(latin1, routing_key="é" * 128)
            put(latin1, routing_key="é" * 127)
    finally:
        session.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_a_look_does_not_read_headers_that_do_not_come_along(session: Session) -> None:
    """Here nobody could read them: as text they are larger than PostgreSQL can hand over."""
    session.execute("ALTER TABLE amqp.outbox DROP CONSTRAINT outbox_check")
    put(session, "x" * 1000)
    session.execute(
        """INSERT INTO amqp.outbox (broker_id, headers)
           SELECT 1, ('{"a": [1e99999' || repeat(', 1e99999', 12000) || ']}')::jsonb"""
    )
    put(session, "behind it")
    query = "SELECT id FROM amqp_inner.outbox_due(1, NULL, -1, 10000, 1000)"
    assert session.execute(query).fetchall() == [(1,)]


def test_headers_that_compress_count_as_what_they_may_be(session: Session) -> None:
    session.execute(
        """INSERT INTO amqp.outbox (broker_id, headers)
           SELECT 1, jsonb_build_object('a', repeat('x', 130000)) FROM generate_series(1, 100)"""
    )
    (size,) = session.execute("SELECT pg_column_size(headers) FROM amqp.outbox").fetchone() or ()
    assert size < 2000
    found = session.execute(
        "SELECT count(*) FROM amqp_inner.outbox_due(1, NULL, -1, 10000, 1310000)"
    )
    assert found.fetchone() == (10,)


def test_small_headers_leave_room_for_many_messages(session: Session) -> None:
    for number in range(50):
        put(session, number, headers={"tenant": number})
    found = session.execute("SELECT count(*) FROM amqp_inner.outbox_due(1, NULL, -1, 100, 50000)")
    assert found.fetchone() == (50,)


def test_headers_from_another_table_are_not_taken_for_small(session: Session) -> None:
    """There they are compressed: it is their text that counts, and no more than that."""
    session.execute("CREATE TABLE t (headers jsonb)")
    session.execute("INSERT INTO t VALUES (%s)", [Jsonb({"a": "x" * 100_000})])
    session.execute("INSERT INTO amqp.outbox (broker_id, headers) SELECT 1, headers FROM t")
    assert len(in_outbox(session)) == 1
