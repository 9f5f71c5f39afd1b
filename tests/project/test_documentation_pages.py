"""The pages on installing, brokers, publishing and privileges do what they say."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from servers.postgres import PostgreSQL, bindir
from servers.processes import wait_for
from servers.relay import DaemonProcess
from support.examples import blocks, commands, examples, here, psql, statements
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Session, open_session

HOW_TO = Path(__file__).parents[2] / "docs/how-to"
BROKERS, INSTALL, PRIVILEGES, PUBLISH = (
    (HOW_TO / f"{name}.md").read_text() for name in ("brokers", "install", "privileges", "publish")
)
ERRORS = (HOW_TO.parent / "reference/errors.md").read_text()
EVENTS = "SELECT amqp.exchange_declare(1, 'events', 'topic', passive => false, durable => true);"


@pytest.fixture(autouse=True)
def _roles(postgres: PostgreSQL, database: str) -> Iterator[None]:
    """Remove the roles of the examples: they belong to all databases."""
    yield
    for role in "shop_app", "shop_operator", "dumper":
        with suppress(psycopg.errors.UndefinedObject):
            with open_session(database) as session:
                session.run(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}")
            with open_session(postgres.dsn()) as session:
                session.run(f"DROP ROLE {role}")


# ---- Brokers ----


def test_the_examples_on_brokers(database: str, broker: VHost) -> None:
    with open_session(database, broker) as session:
        printed = psql(database, "\n".join(examples(BROKERS)))
        assert "WARNING" not in printed
        assert session.run(
            "SELECT broker_id, host, port, ssl FROM amqp.broker WHERE broker_id > 1"
        ) == [
            (2, "rabbit1.example", 5671, True),
            (2, "rabbit2.example", 5673, True),
            (3, "rabbit.example", 5672, False),
            (4, "rabbit.example", 5671, True),
        ]


# ---- Publishing ----


def test_the_examples_on_publishing(database: str, broker: VHost) -> None:
    with open_session(database, broker) as session:
        session.run(EVENTS)
        printed = psql(database, "\n".join(examples(PUBLISH)))
        (warning,) = re.findall("WARNING:  (.*)\n(DETAIL:  .*)", printed)
        assert f"-- WARNING:  {warning[0]}\n-- {warning[1]}\n" in PUBLISH
        assert "items.insert.7|x" in printed


def test_the_outbox_is_not_captured(database: str, broker: VHost) -> None:
    with open_session(database, broker, autocommit=False) as session:
        session.run("SET LOCAL amqp.capture = on")
        session.run("SELECT amqp.publish_outbox(1, 'events', 'k', 'm')")
        assert session.run("SELECT * FROM amqp.pending()") == []
        assert session.value("SELECT count(*) FROM amqp.outbox") == 1


@pytest.mark.parametrize(("level", "seen"), [("ROW", ["DELETE", "INSERT"]), ("STATEMENT", [])])
def test_who_sees_rows_that_merge_moves_between_partitions(
    database: str, broker: VHost, level: str, seen: list[str]
) -> None:
    triggers = (
        "CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON parts FOR EACH ROW"
        " EXECUTE FUNCTION amqp.publish_change('1', 'events', '{op}');"
        if level == "ROW"
        else "".join(
            f"CREATE TRIGGER {event} AFTER {event} ON parts REFERENCING {tables}"
            " FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change('1', 'events', '{op}');"
            for event, tables in (
                ("INSERT", "NEW TABLE AS n"),
                ("UPDATE", "NEW TABLE AS n OLD TABLE AS o"),
                ("DELETE", "OLD TABLE AS o"),
            )
        )
    )
    with open_session(database, broker) as session:
        session.run(EVENTS)
        session.run(
            "CREATE TABLE parts (id integer, part integer) PARTITION BY LIST (part);"
            "CREATE TABLE one PARTITION OF parts FOR VALUES IN (1);"
            "CREATE TABLE two PARTITION OF parts FOR VALUES IN (2);"
            "INSERT INTO parts VALUES (1, 1);" + triggers
        )
        with session.transaction():
            session.run(
                "MERGE INTO parts USING (VALUES (1, 2)) AS v (id, part) ON parts.id = v.id"
                " WHEN MATCHED THEN UPDATE SET part = v.part"
            )
            keys = session.run("SELECT upper(routing_key) FROM amqp.pending()")
        assert [key for (key,) in keys] == seen


@pytest.fixture(scope="module")
def logical() -> Iterator[PostgreSQL]:
    """A server whose changes can be subscribed to."""
    settings = {"wal_level": "logical", "max_prepared_transactions": "5"}
    with PostgreSQL(settings=settings) as server:
        yield server


@pytest.fixture
def subscribed(logical: PostgreSQL, broker: VHost) -> Iterator[tuple[Session, Session]]:
    """Sessions on both sides of a subscription with two_phase, of the table `things`."""
    table = "CREATE TABLE things (id integer PRIMARY KEY);"
    with open_session(logical.dsn()) as admin:
        admin.run("CREATE DATABASE there")
        admin.run("CREATE DATABASE here")
        with (
            open_session(logical.dsn("there")) as publisher,
            open_session(logical.dsn("here")) as it,
        ):
            publisher.run(table + "CREATE PUBLICATION p FOR TABLE things")
            publisher.run("SELECT pg_create_logical_replication_slot('s', 'pgoutput', false, true)")
            it.run(table + "CREATE EXTENSION pg_amqp_py CASCADE")
            it.add_broker(broker.url())
            it.run(EVENTS)
            source = logical.dsn("there").replace("'", "''")
            it.run(
                f"CREATE SUBSCRIPTION s CONNECTION '{source}' PUBLICATION p"
                " WITH (create_slot = false, slot_name = 's', two_phase = on)"
            )
            # Before that, what the publisher does may be part of the first copy.
            ready = "SELECT subtwophasestate = 'e' FROM pg_subscription"
            wait_for(lambda: it.value(ready), LIMIT, "two_phase to be enabled")
            yield publisher, it
            it.run("ALTER SUBSCRIPTION s DISABLE")
            it.run("ALTER SUBSCRIPTION s SET (slot_name = NONE)")
            it.run("DROP SUBSCRIPTION s")
            publisher.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots")
            gone = "SELECT count(*) = 0 FROM pg_replication_slots WHERE active"
            wait_for(lambda: publisher.value(gone), LIMIT, "the slot to be free")
            publisher.run("SELECT pg_drop_replication_slot('s')")
        admin.run("DROP DATABASE here WITH (FORCE)")
        admin.run("DROP DATABASE there WITH (FORCE)")


@pytest.mark.slow
def test_what_fires_on_a_subscriber(subscribed: tuple[Session, Session]) -> None:
    publisher, subscriber = subscribed
    for name, event, each in (
        ("by_row", "INSERT", "ROW"),
        ("by_statement", "INSERT", "STATEMENT"),
        ("emptied", "TRUNCATE", "STATEMENT"),
    ):
        new = "REFERENCING NEW TABLE AS n" if name == "by_statement" else ""
        subscriber.run(
            f"CREATE TRIGGER {name} AFTER {event} ON things {new} FOR EACH {each}"
            f" EXECUTE FUNCTION amqp.publish_change_outbox('1', 'events', '{name}');"
            f"ALTER TABLE things ENABLE ALWAYS TRIGGER {name}"
        )
    keys = "SELECT routing_key FROM amqp.outbox ORDER BY id"
    publisher.run("INSERT INTO things VALUES (1)")
    publisher.run("TRUNCATE things")
    wait_for(lambda: len(subscriber.run(keys)) >= 2, LIMIT, "both to be applied")
    assert subscriber.run(keys) == [("by_row",), ("emptied",)]


@pytest.mark.slow
def test_a_subscription_with_two_phase_stands_still_at_a_trigger_that_publishes(
    subscribed: tuple[Session, Session], logical: PostgreSQL
) -> None:
    publisher, subscriber = subscribed
    subscriber.run(
        "CREATE TRIGGER t AFTER INSERT ON things FOR EACH ROW"
        " EXECUTE FUNCTION amqp.publish_change('1', 'events');"
        "ALTER TABLE things ENABLE ALWAYS TRIGGER t"
    )
    publisher.run("BEGIN; INSERT INTO things VALUES (1)")
    publisher.run("PREPARE TRANSACTION 'x'")
    refused = "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats"
    wait_for(lambda: subscriber.value(refused), LIMIT, "the worker to fail")
    assert subscriber.value("SELECT count(*) FROM pg_prepared_xacts WHERE database = 'here'") == 0
    publisher.run("ROLLBACK PREPARED 'x'")


# ---- Privileges ----


def test_the_examples_on_privileges(database: str, broker: VHost) -> None:
    with open_session(database, broker) as session:
        session.run(EVENTS)
        psql(database, "\n".join(examples(PRIVILEGES)[:2]))
        session.run("SET ROLE shop_operator")
        session.run("SELECT amqp.add_broker('amqp://localhost/')")
        session.run("SELECT amqp.queue_declare(1, 'q')")
        session.run("SELECT amqp.queue_bind(1, 'q', 'events', '#')")
        session.run("RESET ROLE")
        psql(database, examples(PRIVILEGES)[2])


def test_usage_is_enough_to_publish(database: str, broker: VHost) -> None:
    section = PRIVILEGES.partition("It covers:")[2].partition("Each call")[0]
    named = set(re.findall(r"`(\w+)`", section)) - {"USAGE"}
    with open_session(database, broker) as session:
        session.run(examples(PRIVILEGES)[0])
        session.run(EVENTS)
        session.run("CREATE TABLE things (id integer); GRANT INSERT ON things TO shop_app")
        triggers = {
            "publish_change": "'1', 'events'",
            "publish_change_mqtt": "'1', 'a/b'",
            "publish_change_outbox": "'1', 'events'",
        }
        for function, arguments in triggers.items():
            session.run(
                f"CREATE TRIGGER {function} AFTER INSERT ON things FOR EACH ROW"
                f" EXECUTE FUNCTION amqp.{function}({arguments})"
            )
        session.run("SET ROLE shop_app")
        session.run("INSERT INTO things VALUES (1)")
        calls = {
            "publish": "1, 'events', 'k', 'm'",
            "autonomous_publish": "1, 'events', 'k', 'm'",
            "publish_mqtt": "1, 'a/b', 'm'",
            "publish_stomp": "1, '/topic/k', 'm'",
            "publish_outbox": "1, 'events', 'k', 'm'",
            "publish_outbox_mqtt": "1, 'a/b', 'm'",
            "exchange_declare": "1, 'events', 'topic', false, true",
            "disconnect": "1",
            "ping": "1",
            "status": "",
            "pending": "",
        }
        for function, arguments in calls.items():
            session.run(f"SELECT * FROM amqp.{function}({arguments})")
        # Nobody consumes: the question was asked, and so it was allowed to.
        asking = {"request": "'m'", "request_all": "ARRAY['m']"}
        for function, message in asking.items():
            error = session.error(f"SELECT amqp.{function}(1, '', 'nobody', {message})")
            assert error.sqlstate == "42704"
        assert {*triggers, *calls, *asking} == named
        for function in (
            "add_broker('amqp://x/')",
            "queue_declare(1, 'q')",
            "publish_outbox_batch()",
        ):
            assert session.error(f"SELECT amqp.{function}").sqlstate == "42501"


# ---- Installing ----


def test_the_examples_on_installing(database: str, broker: VHost, postgres: PostgreSQL) -> None:
    create, end, update, look, drop = examples(INSTALL)
    (arguments,) = commands(INSTALL.partition("## Dumps")[0])
    with open_session(database, broker) as session:
        session.run(create)
        session.run(update)
        session.run("CREATE TABLE things (id integer)")
        session.run(
            "CREATE TRIGGER t AFTER INSERT ON things FOR EACH ROW"
            " EXECUTE FUNCTION amqp.publish_change_outbox('1', 'events')"
        )
        session.run("INSERT INTO things VALUES (1)")
        assert session.run(look) == [(1, 0, 0, 0)]
        session.run(end)
        assert session.error("DROP EXTENSION pg_amqp_py").sqlstate == "2BP01"
        assert arguments[:-1] == ["run", "--dsn"]
    with DaemonProcess(here(arguments[-1], postgres, database)) as daemon:
        daemon.wait_for_event("working the outbox")
        assert daemon.terminate() == 0
    with open_session(database) as session:
        for statement in statements(drop):
            session.run(statement)
        session.run("INSERT INTO things VALUES (2)")


def test_dumping_as_a_role_that_may_not_read_the_tables(database: str) -> None:
    with open_session(database) as session:
        session.run("CREATE ROLE dumper LOGIN")
        session.run("CREATE TABLE things (id integer); GRANT SELECT ON things TO dumper")
        session.run("INSERT INTO amqp.broker (host, password) VALUES ('localhost', 'p@ssw0rd')")
    as_dumper = make_conninfo(database, user="dumper")
    pg_dump = bindir() / "pg_dump"
    table = ERRORS.partition("## Of pg_dump")[2]
    for text in re.findall(r"`(permission denied for \w+ \w+)`", table):
        failed = subprocess.run([pg_dump, as_dumper], capture_output=True, text=True, check=False)
        assert failed.returncode != 0
        assert text in failed.stderr
        with open_session(database) as session:
            session.run("GRANT USAGE ON SCHEMA amqp TO dumper")
    dumped = subprocess.check_output([pg_dump, "-N", "amqp", as_dumper], text=True)
    assert "CREATE EXTENSION" in dumped
    assert "CREATE TABLE public.things" in dumped
    assert "p@ssw0rd" not in dumped
    assert "p@ssw0rd" in subprocess.check_output([pg_dump, database], text=True)


def test_a_dump_without_passwords_keeps_the_messages(database: str) -> None:
    dumps = INSTALL.partition("## Dumps")[2].partition("\n## ")[0]
    (line,) = blocks(dumps, "sh")
    program, *options, dbname = shlex.split(line.partition(" > ")[0])
    assert (program, dbname) == ("pg_dump", "shop")
    with open_session(database) as session:
        session.run("INSERT INTO amqp.broker (host, password) VALUES ('localhost', 'p@ssw0rd')")
        session.run(
            "INSERT INTO amqp.influxdb (name, url, database, username, password)"
            " VALUES ('i', 'http://localhost:8086', 'd', 'u', 'p@ssw0rd')"
        )
        session.run("SELECT amqp.publish_outbox(1, 'events', 'k', 'kept')")
        session.run("INSERT INTO amqp.listener (channel, broker_id, exchange) VALUES ('c', 1, 'e')")
        dumped = subprocess.check_output([bindir() / "pg_dump", *options, database], text=True)
        assert "p@ssw0rd" not in dumped
        session.run("CREATE DATABASE restored")
    restored = make_conninfo(database, dbname="restored")
    try:
        psql(restored, dumped)
        with open_session(restored) as session:
            found = "SELECT (SELECT count(*) FROM {}), (SELECT count(*) FROM {})"
            assert session.run(found.format("amqp.outbox", "amqp.listener")) == [(1, 1)]
            assert session.run(found.format("amqp.broker", "amqp.influxdb")) == [(0, 0)]
    finally:
        with open_session(database) as session:
            session.run("DROP DATABASE restored")
