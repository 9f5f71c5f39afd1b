"""Whatever call finds amqp.publish() with properties alone finds one of the two that there are.

PostgreSQL chooses between a short function and a long one by the types of the arguments
(PostgreSQL, section "Functions" of "Type Conversion"). Each call is made of both, and of a copy of
the long one as it would be without the short one; they must do the same.
"""

from __future__ import annotations

from itertools import product

import psycopg
import pytest

from support.sessions import Session

BROKERS = ("1", "1::smallint", "1::bigint", "NULL", "'1'", "1::numeric", "1::number")
TEXTS = (
    "'x'",
    "'x'::text",
    "'x'::varchar",
    "'x'::varchar(5)",
    "'x'::bpchar",
    "'x'::name",
    "NULL",
    "'x'::word",
    "'x'::short_word",
    "'x'::mood",
    "'x'::\"char\"",
)
MESSAGES = (
    *("'1'", "'1'::text", "'1'::varchar", "'1'::bpchar", "'1'::name", "'1'::word", "'1'::mood"),
    *("'1'::jsonb", "'1'::json", "'1'::bytea", "NULL", "NULL::jsonb", "NULL::bytea", "1"),
    *("now()", "row(1)", "to_jsonb(1)", "json_build_object('a', 1)"),
)
PROPERTIES = (
    *("", ", 2", ", NULL", ", 1, 'c', 'r', 'i'", ", 1, 'c'::varchar, 'r'::varchar"),
    *(", content_type => 'c'", """, headers => '{"a": 1}'""", ", mandatory => true"),
)

SHORT = "amqp.short_string"

TYPES = """
CREATE DOMAIN word AS text;
CREATE DOMAIN short_word AS varchar(30);
CREATE DOMAIN number AS integer;
CREATE TYPE mood AS ENUM ('x', '1');
CREATE SCHEMA before;
"""
COPIES = """
SELECT replace(replace(pg_get_functiondef(p.oid), 'amqp.publish', 'before.publish'),
               'amqp.short_string', 'text')
FROM pg_proc AS p
WHERE p.proname = 'publish' AND p.pronamespace = 'amqp'::regnamespace AND p.pronargs = 18
"""
# The error takes the message back.
TRY = """
CREATE FUNCTION try(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    found text;
BEGIN
    EXECUTE 'SELECT ' || call;
    SELECT string_agg(m::text, ' ') INTO found FROM amqp.pending() AS m;
    RAISE EXCEPTION USING ERRCODE = 'UU000', MESSAGE = found;
EXCEPTION
    WHEN SQLSTATE 'UU000' THEN RETURN SQLERRM;
    WHEN OTHERS THEN RETURN SQLSTATE;
END
$$
"""


@pytest.fixture
def both(session: Session) -> Session:
    """The session, in which before.publish() stands alone; messages are captured."""
    session.execute(TYPES.encode())
    for (copy,) in session.execute(COPIES).fetchall():
        assert isinstance(copy, str)
        session.execute(copy.encode())
    session.execute(TRY.encode())
    session.execute("SET amqp.capture = on")
    return session


def differing(session: Session, calls: list[str]) -> list[tuple[object, ...]]:
    """Those of the arguments with which the functions do not do the same."""
    query = """
        SELECT call, now.found, before.found FROM unnest(%s::text[]) AS call,
               LATERAL try(format('amqp.publish(%%s)', call)) AS now(found),
               LATERAL try(format('before.publish(%%s)', call)) AS before(found)"""
    results = session.execute(query, [calls]).fetchall()
    assert sum(len(str(found)) > 5 for _, found, _ in results) > len(calls) / 4
    return [row for row in results if row[1] != row[2]]


def test_by_position(both: Session) -> None:
    calls = [
        f"{broker_id}, {exchange}, 'k', {message}{properties}"
        for broker_id, exchange, message, properties in product(
            BROKERS, TEXTS, MESSAGES, PROPERTIES
        )
    ]
    calls += [
        f"1, {exchange}, {key}, {message}{properties}"
        for exchange, key, message, properties in product(
            TEXTS[:-1], TEXTS, MESSAGES, PROPERTIES[:2]
        )
    ]
    assert differing(both, calls) == []


def test_by_name(both: Session) -> None:
    form = "broker_id => {}, exchange => {}, routing_key => {}, message => {}{}"
    calls = [
        form.format(*arguments)
        for arguments in product(BROKERS[:4], TEXTS[:6], TEXTS[:4], MESSAGES, PROPERTIES[::5])
    ]
    calls += [
        arguments.format(message, properties)
        for message, properties in product(MESSAGES, ["", ", content_type => 'c'"])
        for arguments in (
            "1, 'x', message => {}, routing_key => 'k'{}",
            "1, 'x', 'k', message => {}{}",
            "message => {}{}, broker_id => 1, routing_key => 'k', exchange => 'x'",
        )
    ]
    assert differing(both, calls) == []


@pytest.mark.parametrize(
    ("call", "types"),
    [
        ("$1, $2, $3, $4", "{integer,text,text,text}"),
        ("$1, $2, $2, $3", "{integer,text,text}"),
        ("$1, $2, $3, $4::jsonb", "{integer,text,text,jsonb}"),
        ("$1, $2, $3, $4, $5", f"{{integer,{SHORT},{SHORT},text,integer}}"),
        ("$1, $2, $2, $3, content_type => $2, type => $2", f"{{integer,{SHORT},text}}"),
        ("$1, $2, $3, $4, message_id => $4::text", f"{{integer,{SHORT},{SHORT},text}}"),
    ],
)
def test_parameters_without_a_type(session: Session, call: str, types: str) -> None:
    session.execute(f"PREPARE p AS SELECT amqp.publish({call})".encode())
    found = "SELECT parameter_types::text FROM pg_prepared_statements"
    assert session.value(found) == types


def test_what_needs_a_type(session: Session) -> None:
    """As the changelog says: a parameter that is the message and another text as well."""
    with pytest.raises(psycopg.errors.AmbiguousParameter):
        session.execute("PREPARE p AS SELECT amqp.publish($1, 'e', $2, $2, content_type => 'c')")
