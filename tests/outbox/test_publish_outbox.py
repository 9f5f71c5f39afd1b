"""amqp.publish_outbox(): what is put into the outbox, by whom, and with which transactions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from servers.postgres import PostgreSQL
from support.outbox import in_outbox, put, settle
from support.sessions import Report, Session, open_session

PROPERTIES: dict[str, object] = {
    "delivery_mode": 2,
    "content_type": "text/plain",
    "reply_to": "replies",
    "correlation_id": "42",
    "mandatory": True,
    "headers": {"tenant": 7},
    "content_encoding": "utf-8",
    "priority": 255,
    "expiration": "4294967295",
    "message_id": "order-1",
    "timestamp": datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC),
    "type": "order",
    "user_id": "guest",
    "app_id": "shop",
    "ordering_key": "customer 7",
}


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """A superuser's session in autocommit mode; there is no broker anywhere."""
    with open_session(database) as session:
        yield session


def columns(session: Session, number: int) -> dict[str, Any]:
    """Return the row with this id."""
    cursor = session.execute("SELECT * FROM amqp.outbox WHERE id = %s", [number])
    row = cursor.fetchone()
    assert row is not None
    assert cursor.description is not None
    return dict(zip([column.name for column in cursor.description], row, strict=True))


# ---- What is stored ----


def test_every_parameter_has_its_column(session: Session) -> None:
    number = put(
        session,
        "text",
        broker_id=3,
        exchange="events",
        routing_key="orders.placed",
        deliver_at=datetime(2030, 1, 1, tzinfo=UTC),
        **PROPERTIES,
    )
    row = columns(session, number)
    now = row.pop("created_at")
    assert row.pop("transaction_id") is not None
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=10)
    assert row == {
        **PROPERTIES,
        "id": number,
        "broker_id": 3,
        "exchange": "events",
        "routing_key": "orders.placed",
        "body": b"text",
        "next_attempt_at": datetime(2030, 1, 1, tzinfo=UTC),
        "attempts": 0,
        "retain": None,
        "last_error": None,
    }


def test_what_is_not_given_is_null(session: Session) -> None:
    row = columns(session, put(session))
    assert {name: row[name] for name in PROPERTIES if name != "message_id"} == dict.fromkeys(
        set(PROPERTIES) - {"message_id"}
    )
    assert row["next_attempt_at"] is None


def test_null_means_the_default(session: Session) -> None:
    row = columns(session, put(session, exchange=None, routing_key=None, message_id=None))
    assert (row["exchange"], row["routing_key"]) == ("amq.direct", "")
    assert UUID(row["message_id"]).version == 4
    session.execute("SELECT amqp.publish_outbox(1, '', 'queue', NULL::text)")
    assert in_outbox(session, "exchange, body")[-1] == ("", b"")


def test_text_jsonb_and_bytea(session: Session) -> None:
    for message in (
        "'zwölf 😀'",
        "'zwölf'::text",
        """'{"b": 1, "a": [2]}'::jsonb""",
        r"'\x00ff'::bytea",
    ):
        session.execute(f"SELECT amqp.publish_outbox(1, 'e', 'k', {message})")
    session.execute(
        "SELECT amqp.publish_outbox(1, 'e', 'k', '{}'::jsonb, content_type => 'text/json')"
    )
    assert in_outbox(session, "body, content_type") == [
        ("zwölf 😀".encode(), None),
        ("zwölf".encode(), None),
        (b'{"a": [2], "b": 1}', "application/json"),
        (b"\0\xff", None),
        (b"{}", "text/json"),
    ]


def test_the_ids_that_are_returned_rise(session: Session) -> None:
    first = put(session, message_id="kept")
    second = put(session)
    assert second > first
    assert in_outbox(session, "id, message_id = 'kept'") == [(first, True), (second, False)]
    found = session.execute(
        "SELECT amqp.publish_outbox(1, 'e', 'k', n::text) FROM generate_series(1, 100) AS n"
    ).fetchall()
    assert found == sorted(found)
    ids = in_outbox(session, "message_id")
    assert len(set(ids)) == len(ids)


def test_text_of_a_database_that_is_not_utf8(postgres: PostgreSQL) -> None:
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'")
        try:
            with open_session(postgres.dsn("latin")) as session:
                session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
                put(session, "zwölf")
                session.execute("SELECT amqp.publish_outbox(1, 'e', 'k', '\"zwölf\"'::jsonb)")
                assert in_outbox(session, "body") == [("zwölf".encode(),), ('"zwölf"'.encode(),)]
        finally:
            admin.execute("DROP DATABASE latin WITH (FORCE)")


# ---- What is refused ----

TOO_LONG = "é" * 128
WRONG: list[tuple[Mapping[str, object], type[psycopg.Error], str, str | None]] = [
    ({"broker_id": None}, errors.NullValueNotAllowed, "broker_id must not be null", None),
    *[
        (
            {name: TOO_LONG},
            errors.StringDataRightTruncation,
            f"{name} is too long",
            None,
        )
        for name in (
            "exchange",
            "routing_key",
            "content_type",
            "reply_to",
            "correlation_id",
            "content_encoding",
            "message_id",
            "type",
            "user_id",
            "app_id",
        )
    ],
    *[
        (
            {"delivery_mode": value},
            errors.InvalidParameterValue,
            f"invalid value for delivery_mode: {value}",
            "Use 1 (transient) or 2 (persistent).",
        )
        for value in (0, 3, -1)
    ],
    *[
        (
            {"priority": value},
            errors.InvalidParameterValue,
            f"invalid value for priority: {value}",
            "A priority is between 0 and 255.",
        )
        for value in (-1, 256)
    ],
    *[
        (
            {"expiration": value},
            errors.InvalidParameterValue,
            f"invalid value for expiration: {value[:40]}",
            "An expiration is a number of milliseconds, such as '60000', below 2^32.",
        )
        for value in ("", "soon", "1.5", "-1", "4294967296", "١٢", "1\n", "9" * 50)
    ],
    *[
        (
            {"timestamp": value},
            errors.InvalidParameterValue,
            f"invalid value for timestamp: {shown}",
            "A timestamp is not before 1970-01-01 00:00:00 UTC and is finite.",
        )
        for value, shown in (
            ("1969-12-31 23:59:59+00", "1969-12-31 23:59:59+00"),
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
        )
    ],
]


def test_what_can_never_be_sent_is_refused(session: Session) -> None:
    session.execute("SET timezone = 'UTC'")
    for parameters, kind, message, hint in WRONG:
        with pytest.raises(kind) as raised:
            put(session, **parameters)
        report = Report.of(raised.value.diag)
        assert (report.message, report.hint) == (message, hint or "")
        if kind is errors.StringDataRightTruncation:
            assert report.detail == "AMQP allows 255 bytes."
    for headers in ("[]", "1", '"text"', "null"):
        with pytest.raises(errors.InvalidParameterValue, match="headers must be a JSON object"):
            session.execute(
                "SELECT amqp.publish_outbox(1, 'e', 'k', 'm', headers => %s::jsonb)", [headers]
            )
    assert in_outbox(session) == []


def test_what_is_just_allowed(session: Session) -> None:
    for parameters in (
        {"routing_key": "é" * 127 + "k", "exchange": "e" * 255, "app_id": "a" * 255},
        {"delivery_mode": 1, "priority": 0, "expiration": "0", "timestamp": "1970-01-01+00"},
        {"delivery_mode": 2, "priority": 255, "expiration": "4294967295", "headers": {}},
        {"expiration": f"{4294967295:0255}"},
        {"expiration": "0000000060", "deliver_at": "2090-01-01+00", "ordering_key": ""},
    ):
        put(session, **parameters)
    assert len(in_outbox(session)) == 5


# ---- Transactions ----


def test_it_follows_the_transaction(session: Session) -> None:
    with session.transaction():
        put(session, "kept")
        with session.transaction(force_rollback=True):
            put(session, "rolled back to a savepoint")
        session.execute(
            """DO $$ BEGIN
                   PERFORM amqp.publish_outbox(1, 'e', 'k', 'rolled back by a block');
                   RAISE division_by_zero;
               EXCEPTION WHEN division_by_zero THEN
               END $$"""
        )
    with session.transaction(force_rollback=True):
        put(session, "rolled back")
    assert in_outbox(session, "body") == [(b"kept",)]


def test_it_can_be_prepared(session: Session) -> None:
    for end in ("COMMIT", "ROLLBACK"):
        session.execute("BEGIN")
        put(session, end)
        session.execute("PREPARE TRANSACTION 'outbox'")
        assert (end.encode(),) not in in_outbox(session, "body")
        session.execute(f"{end} PREPARED 'outbox'")
        assert in_outbox(session, "body") == [(b"COMMIT",)]


def test_texts_that_are_long_only_together_are_taken(session: Session) -> None:
    longest = {
        name: name[0] * 255
        for name in (
            *("exchange", "routing_key", "content_type", "reply_to", "correlation_id"),
            *("content_encoding", "message_id", "type", "user_id", "app_id"),
        )
    }
    number = put(session, **longest)
    row = columns(session, number)
    assert {name: row[name] for name in longest} == longest
    for name in longest:
        with pytest.raises(errors.StringDataRightTruncation) as caught:
            put(session, **{**longest, name: "é" * 128})
        assert str(caught.value.diag.message_primary) == f"{name} is too long"


def test_it_loads_no_python(session: Session) -> None:
    """Every session would pay 30 ms for that."""
    for message in ("text", b"bytes"):
        put(session, message, **{**PROPERTIES, "expiration": "60000"})
    session.execute("SELECT amqp.publish_outbox(1, 'e', 'k', '{}'::jsonb)")

    def libraries() -> str:
        return Path(f"/proc/{session.info.backend_pid}/maps").read_text()

    assert "python" not in libraries()
    # It would be seen.
    session.execute("SELECT amqp.status()")
    assert "python" in libraries()


# ---- Rights ----


@pytest.fixture
def publisher(session: Session, database: str) -> Iterator[Session]:
    """A session of a role that may publish, and nothing else."""
    session.execute("CREATE ROLE outbox_publisher")
    session.execute("GRANT USAGE ON SCHEMA amqp TO outbox_publisher")
    with open_session(database) as publisher:
        publisher.execute("SET SESSION AUTHORIZATION outbox_publisher")
        yield publisher
    session.execute("DROP OWNED BY outbox_publisher; DROP ROLE outbox_publisher")


def test_usage_on_the_schema_is_the_right_to_publish(session: Session, publisher: Session) -> None:
    number = put(publisher, **PROPERTIES, deliver_at=datetime(2030, 1, 1, tzinfo=UTC))
    put(publisher, b"bytes")
    publisher.execute("SELECT amqp.publish_outbox(1, 'e', 'k', '{}'::jsonb)")
    with pytest.raises(errors.InvalidParameterValue):
        put(publisher, priority=-1)
    # Whether what one has published still waits.
    query = "SELECT next_attempt_at IS NOT NULL FROM amqp.outbox WHERE id = %s AND broker_id = 1"
    assert publisher.execute(query, [number]).fetchall() == [(True,)]
    assert len(in_outbox(session)) == 3


FORBIDDEN = [
    "SELECT body FROM amqp.outbox",
    "SELECT * FROM amqp.outbox",
    "SELECT headers, last_error FROM amqp.outbox",
    "UPDATE amqp.outbox SET body = ''",
    "UPDATE amqp.outbox SET next_attempt_at = NULL",
    "DELETE FROM amqp.outbox",
    "TRUNCATE amqp.outbox",
    "DO $$ BEGIN LOCK TABLE amqp.outbox IN SHARE MODE; END $$",
    "INSERT INTO amqp.outbox (broker_id, attempts) VALUES (1, 5)",
    "INSERT INTO amqp.outbox (broker_id, created_at) VALUES (1, now())",
    "SELECT setval('amqp.outbox_id_seq', 1)",
    "SELECT id FROM amqp.outbox_dead",
    "SELECT id FROM amqp.dead_letters",
    "SELECT id FROM amqp.outbox_delivered",
    "SELECT * FROM amqp.outbox_trouble",
    "INSERT INTO amqp.outbox_dead (id, broker_id) VALUES (1, 1)",
    "SELECT amqp.retry_dead_letters()",
    "SELECT amqp.discard_dead_letters()",
    "SELECT * FROM amqp_inner.outbox_due(1, NULL, -1, 10, 1000)",
    "SELECT amqp_inner.outbox_settle(1, '{1}', '{a}', '{}', '{}', '{}', '{}')",
    "SELECT amqp_inner.outbox_note(1, 'error')",
    "SELECT * FROM amqp.outbox_status()",
]


def test_it_is_no_right_to_read_or_change(session: Session, publisher: Session) -> None:
    settle(session, refused=[(put(session), "invalid", "no")])
    put(session)
    for query in FORBIDDEN:
        with pytest.raises(errors.InsufficientPrivilege):
            publisher.execute(query)
    assert len(in_outbox(session)) == 1


def test_nobody_publishes_without_usage(session: Session, publisher: Session) -> None:
    session.execute("REVOKE USAGE ON SCHEMA amqp FROM outbox_publisher")
    with pytest.raises(errors.InsufficientPrivilege):
        put(publisher)


# ---- Plans ----


@pytest.mark.parametrize("analyzed_when_empty", [False, True])
def test_what_is_due_is_found_by_index(database: str, analyzed_when_empty: bool) -> None:
    """As the relay asks, right after a bulk insert of which the statistics know nothing."""
    with open_session(database) as session:
        if analyzed_when_empty:
            session.execute("VACUUM ANALYZE amqp.outbox")
        session.execute(
            """INSERT INTO amqp.outbox (broker_id, ordering_key, next_attempt_at)
               SELECT 1 + n % 3, CASE WHEN n % 2 = 0 THEN n % 100 END,
                      CASE WHEN n % 10 = 0 THEN now() + interval '1 hour' * n END
               FROM generate_series(1, 20000) AS n"""
        )
        for setting in (
            "enable_seqscan = off",
            "enable_bitmapscan = off",
            "enable_sort = off",
            "jit = off",
            "plan_cache_mode = force_generic_plan",
        ):
            session.execute(f"SET {setting}")
        session.execute(
            "PREPARE due (int, int8, int8, int, int8) AS "
            "SELECT * FROM amqp_inner.outbox_due($1, $2, $3, $4, $5)"
        )
        lines = session.execute(
            "EXPLAIN (ANALYZE, COSTS off, TIMING off) EXECUTE due (1, NULL, -1, 100, 1000000)"
        ).fetchall()
    plan = "\n".join(line for (line,) in lines)
    # Inlined, else there would be a Function Scan.
    assert "Function Scan" not in plan
    assert "Seq Scan" not in plan
    assert "outbox_ready_idx" in plan
    assert "outbox_waiting_idx" in plan
    assert "outbox_ready_key_idx" in plan
    assert "outbox_waiting_key_idx" in plan
    # And not by reading over all that is there.
    scans = [line for line in plan.splitlines() if "using outbox_ready_idx" in line]
    assert len(scans) == 1
    assert "rows=100 " in scans[0], plan


def test_policies_of_the_table_hold(session: Session, publisher: Session) -> None:
    session.execute(
        """
        ALTER TABLE amqp.outbox ENABLE ROW LEVEL SECURITY;
        CREATE POLICY one ON amqp.outbox FOR ALL USING (broker_id = 1)
        """
    )
    publisher.execute("SELECT amqp.publish_outbox(1, 'e', 'k', 'x')")
    for call in ("publish_outbox(2, 'e', 'k', 'x')", "publish_outbox_mqtt(2, 't', 'x')"):
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            publisher.execute(f"SELECT amqp.{call}".encode())
    session.execute("REVOKE INSERT ON amqp.outbox FROM PUBLIC")
    with pytest.raises(errors.InsufficientPrivilege, match="permission denied for table outbox"):
        publisher.execute("SELECT amqp.publish_outbox(1, 'e', 'k', 'x')")


def test_default_privileges_do_not_matter(database: str, session: Session) -> None:
    session.execute("DROP EXTENSION pg_amqp_py CASCADE")
    session.execute("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
    session.execute("CREATE EXTENSION pg_amqp_py")
    session.execute("CREATE ROLE inserter; GRANT USAGE ON SCHEMA amqp TO inserter")
    try:
        with open_session(database) as inserter:
            inserter.execute("SET SESSION AUTHORIZATION inserter")
            inserter.execute("INSERT INTO amqp.outbox (broker_id, body) VALUES (1, 'x')")
    finally:
        session.execute("DROP OWNED BY inserter; DROP ROLE inserter")


def test_headers_are_measured_as_they_are_sent(postgres: PostgreSQL) -> None:
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE narrow ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        try:
            with open_session(postgres.dsn("narrow")) as session:
                session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
                call = "SELECT amqp.publish_outbox(1, 'e', 'k', 'x', headers => %s::jsonb)"
                with pytest.raises(errors.StringDataRightTruncation):
                    session.execute(call, ['{"%s": 1}' % ("é" * 200)])
                session.execute(call, ['{"%s": 1}' % ("é" * 100)])
        finally:
            admin.execute("DROP DATABASE narrow WITH (FORCE)")
