"""The inbox: nobody sees or does anything with it unasked, and what the daemon's role needs."""

from __future__ import annotations

import psycopg
import pytest

from pg_amqp_daemon.consume.inbox import Report
from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.database import Database
from servers.processes import wait_for
from servers.relay import ConsumeProcess
from support.consumers import desk
from support.fix_servers import VHost
from support.patience import LIMIT
from support.roles import role_fixtures
from support.sessions import Session, open_session
from support.storing import consume_into, dead, message, storing

session, role, publisher, broker_id = role_fixtures()

TABLES = (
    "influxdb", "consumer", "inbox", "inbox_seen", "inbox_offset", "inbox_dead", "inbox_state",
)  # fmt: skip
# All that a daemon needs beside USAGE on the schema and what it does to targets.
GRANTS = {
    "broker": ["SELECT"],
    "consumer": ["SELECT"],
    "inbox": ["INSERT"],
    "inbox_seen": ["SELECT", "INSERT", "DELETE"],
    "inbox_offset": ["SELECT", "INSERT", "UPDATE"],
    "inbox_dead": ["SELECT", "INSERT", "UPDATE", "DELETE"],
    "inbox_state": ["SELECT", "INSERT", "UPDATE"],
}
# Whoever looks after consumers, without being the daemon.
OPERATOR = {
    "amqp.inbox_status()": {
        "consumer": ["SELECT"], "inbox_state": ["SELECT"], "inbox_dead": ["SELECT"],
    },
    "amqp.retry_dead_messages('c')": {"inbox_dead": ["SELECT", "UPDATE"]},
    "amqp.discard_dead_messages('c')": {"inbox_dead": ["SELECT", "DELETE"]},
    "amqp.rewind('c', 1)": {
        "consumer": ["SELECT"],
        "inbox_offset": ["SELECT", "INSERT", "UPDATE"],
        "inbox_seen": ["SELECT", "DELETE"],
    },
}  # fmt: skip


def grant(session: Session, role: str, grants: dict[str, list[str]]) -> None:
    for table, privileges in grants.items():
        session.run(f"GRANT {', '.join(privileges)} ON amqp.{table} TO {role}")


def test_whoever_may_publish_sees_and_does_nothing_here(
    session: Session, database: str, publisher: str
) -> None:
    session.run("DROP EXTENSION pg_amqp_py; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC")
    session.run("CREATE EXTENSION pg_amqp_py")
    consume_into(session, stream_offset="first")
    with open_session(database, role=publisher) as somebody:
        for table in TABLES:
            for statement in (
                f"SELECT FROM amqp.{table}",
                f"INSERT INTO amqp.{table} DEFAULT VALUES",
                f"DELETE FROM amqp.{table}",
                f"TRUNCATE amqp.{table}",
            ):
                assert somebody.error(statement).sqlstate == "42501", statement
        for call in (
            *OPERATOR,
            "amqp_inner.inbox_take('c')",
            "amqp_inner.inbox_forget('c', '1 day', 9)",
        ):
            assert somebody.error(f"SELECT {call}").sqlstate == "42501", call
        for sequence in ("inbox_id_seq", "inbox_dead_id_seq"):
            assert somebody.error(f"SELECT nextval('amqp.{sequence}')").sqlstate == "42501"


def test_whoever_may_not_use_the_schema_does_not_even_see_a_message(
    session: Session, database: str, role: str
) -> None:
    with open_session(database, role=role) as somebody:
        for query in ("SELECT amqp.body_text(NULL)", "SELECT NULL::amqp.message"):
            assert somebody.error(query).sqlstate == "42501"


@pytest.fixture
def worker(session: Session, role: str) -> str:
    """A role that may use the schema, and what all the rest of it needs."""
    session.run(
        f"""CREATE TABLE t (id integer PRIMARY KEY);
            CREATE FUNCTION f(m amqp.message) RETURNS text LANGUAGE sql
            AS $$ SELECT amqp.body_json(m) ->> 'id' $$;
            GRANT USAGE ON SCHEMA amqp TO {role};
            GRANT SELECT, INSERT ON t TO {role}"""
    )
    session.run("INSERT INTO amqp.broker (host) VALUES ('h')")
    consume_into(session, "t", name="table")
    consume_into(session, "f(amqp.message)", name="function", reply_errors=True)
    consume_into(session, name="inbox")
    consume_into(session, name="stream", deduplicate_by="message_id")
    return role


def work(database: str, role: str) -> None:
    """Do all that a daemon does in the database."""
    dsn = f"{database} user={role}"
    watcher = Database(dsn, "test")
    with watcher.connected():
        addresses_of_brokers(watcher)
        watcher.ask("SELECT c.name FROM ONLY amqp.consumer AS c WHERE c.enabled")
    good, bad = message('{"id": 1}', message_id="a", reply_to="r"), message("bad", reply_to="r")
    for name in ("table", "function", "inbox"):
        with storing(dsn, name) as one:
            assert one.inbox.held_by_us()
            assert one.put(good, bad).dead == (name != "inbox")
            one.inbox.last_batch()
            one.inbox.forget("1 day", 10)
            one.inbox.report(Report(1, 1, 1, 1.0, 1.0, "trouble"))
            one.inbox.place("q")
            one.ask("UPDATE amqp.inbox_dead SET retry = true, sqlstate = sqlstate")
            if name != "inbox":
                assert one.retry().stored == 0
    with storing(dsn, "stream", is_stream=True) as one:
        for offset in (5, 6):
            one.put(message(offset=offset, message_id=str(offset)), rewinds=0)
    with storing(dsn, "table") as one:
        one.inbox.revive([0])


def test_a_role_with_these_rights_does_all_that_a_daemon_does(
    session: Session, database: str, worker: str
) -> None:
    grant(session, worker, GRANTS)
    work(database, worker)
    assert dead(session, consumer="table") == ["22P02"]
    assert session.value("SELECT count(*) FROM amqp.outbox") == 2


@pytest.mark.parametrize(
    ("table", "privilege"), [(table, one) for table, all_ in GRANTS.items() for one in all_]
)
def test_none_of_these_rights_is_one_too_many(
    session: Session, database: str, worker: str, table: str, privilege: str
) -> None:
    grant(session, worker, GRANTS)
    session.run(f"REVOKE {privilege} ON amqp.{table} FROM {worker}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        work(database, worker)
    # A right that is missing is never a message's fault.
    assert set(dead(session, consumer="table")) <= {"22P02"}


def test_a_daemon_of_that_role_works_from_end_to_end(
    session: Session, database: str, broker: VHost, worker: str
) -> None:
    grant(session, worker, GRANTS)
    session.run("DELETE FROM amqp.consumer")
    with desk(database, broker) as consumers:
        consumer = consumers(broker_id=session.value("SELECT max(broker_id) FROM amqp.broker"))
        with ConsumeProcess(f"{database} user={worker}"):
            consumer.publish("a", "b")
            consumer.wait_for_stored(2)
            # To whoever may not see that session's start, too, it is there.
            assert consumer.status()["running"].startswith("pg-amqp consume ")
            wait_for(lambda: consumer.status()["received"] == 2, LIMIT, "the report")
            assert consumer.status()["trouble"] is None


@pytest.mark.parametrize(
    ("right", "words"),
    [
        ("TEMPORARY ON DATABASE", "permission denied to create temporary tables"),
        ("SELECT ON amqp.broker", "permission denied for table broker"),
        ("SELECT ON amqp.inbox_dead", "permission denied for table inbox_dead"),
        ("SELECT ON amqp.inbox_offset", "permission denied for table inbox_offset"),
        ("INSERT ON amqp.inbox", "permission denied for table inbox"),
    ],
)
def test_whatever_right_is_missing_is_the_consumer_s_trouble(
    session: Session, database: str, broker: VHost, worker: str, right: str, words: str
) -> None:
    grant(session, worker, GRANTS)
    session.run("DELETE FROM amqp.consumer")
    name = session.value("SELECT current_database()")
    session.run(f"REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC")
    session.run(f"GRANT TEMPORARY ON DATABASE {name} TO {worker}")
    privilege, _, what = right.replace("DATABASE", f"DATABASE {name}").partition(" ")
    session.run(f"REVOKE {privilege} {what} FROM {worker}")
    with desk(database, broker) as consumers:
        consumer = consumers(broker_id=session.value("SELECT max(broker_id) FROM amqp.broker"))
        with ConsumeProcess(f"{database} user={worker}"):
            consumer.wait_for_trouble(words)
            assert words in consumer.status()["last_error"]
            session.run(f"GRANT {privilege} {what} TO {worker}")
            consumer.publish("a")
            consumer.wait_for_stored(1)
            consumer.wait_until("no trouble", lambda status: status["trouble"] is None)


@pytest.mark.parametrize("call", OPERATOR)
def test_what_looking_after_consumers_takes(
    session: Session, database: str, publisher: str, call: str
) -> None:
    consume_into(session)
    grant(session, publisher, OPERATOR[call])
    with open_session(database, role=publisher) as operator:
        operator.run(f"SELECT {call}")
        for table, privileges in OPERATOR[call].items():
            for privilege in privileges:
                session.run(f"REVOKE {privilege} ON amqp.{table} FROM {publisher}")
                assert operator.error(f"SELECT {call}").sqlstate == "42501", (table, privilege)
                session.run(f"GRANT {privilege} ON amqp.{table} TO {publisher}")


def test_passwords_of_an_influxdb_are_seen_by_nobody_unasked(
    session: Session, database: str, publisher: str
) -> None:
    session.run(
        "INSERT INTO amqp.influxdb (name, url, database, username, password)"
        " VALUES ('i', 'http://h:1', 'd', 'u', 'secret')"
    )
    report = session.error(
        "INSERT INTO amqp.influxdb (name, url, database, password) VALUES ('j', 'h', 'd', 'secret')"
    )
    assert (report.sqlstate, "secret" in f"{report}") == ("23514", False)
    session.run(f"GRANT SELECT, INSERT, UPDATE ON amqp.consumer TO {publisher}")
    with open_session(database, role=publisher) as somebody:
        assert somebody.error("SELECT * FROM amqp.influxdb").sqlstate == "42501"
        somebody.run(
            "INSERT INTO amqp.consumer (name, broker_id, queue, influxdb, measurement)"
            " VALUES ('c', 1, 'q', 'i', 'm')"
        )
        plan = "SELECT amqp_inner.consumer_plan(c, false) FROM amqp.consumer AS c"
        assert somebody.error(plan).sqlstate == "42501"


@pytest.mark.parametrize(
    ("column", "needs"),
    [
        ("serial", True),
        ("integer GENERATED BY DEFAULT AS IDENTITY", True),
        ("integer GENERATED ALWAYS AS IDENTITY", False),
    ],
)
def test_a_sequence_that_the_role_may_not_use_is_no_message_s_fault(
    session: Session, database: str, broker: VHost, worker: str, column: str, needs: bool
) -> None:
    grant(session, worker, GRANTS)
    session.run("DELETE FROM amqp.consumer")
    session.run(f"CREATE TABLE counted (id {column}, n integer)")
    session.run(f"GRANT INSERT ON counted TO {worker}")
    with desk(database, broker) as consumers:
        consumer = consumers(
            broker_id=session.value("SELECT max(broker_id) FROM amqp.broker"),
            target_table="counted",
        )
        consumer.publish('{"n": 1}', '{"n": 2}')
        with ConsumeProcess(f"{database} user={worker}"):
            if needs:
                consumer.wait_for_trouble("permission denied for sequence counted_id_seq")
                assert not consumer.dead()
                session.run(f"GRANT USAGE ON SEQUENCE counted_id_seq TO {worker}")
            consumer.wait_for_stored(2)
    assert session.run("SELECT id, n FROM counted ORDER BY n") == [(1, 1), (2, 2)]
