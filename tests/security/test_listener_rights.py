"""Listeners: nobody sees or does anything with them unasked, and what the daemon's role needs."""

from __future__ import annotations

from servers.processes import wait_for
from servers.relay import ListenProcess
from support.fix_servers import VHost
from support.listeners import switchboard
from support.patience import LIMIT
from support.roles import role_fixtures
from support.sessions import Session, open_session

session, role, publisher, broker_id = role_fixtures()

TABLES = ("listener", "listener_state", "listener_lease")
GRANTS = {
    "broker": "SELECT",
    "listener": "SELECT",
    "listener_state": "SELECT, INSERT, UPDATE",
    "listener_lease": "SELECT, INSERT, UPDATE",
    "outbox": "INSERT",
}


def test_whoever_may_publish_sees_and_does_nothing_here(
    session: Session, database: str, publisher: str
) -> None:
    session.run("DROP EXTENSION pg_amqp_py; ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC")
    session.run("CREATE EXTENSION pg_amqp_py")
    session.run("INSERT INTO amqp.listener (channel, broker_id, exchange) VALUES ('c', 1, 'e')")
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
            "amqp_inner.listener_take()",
            "amqp_inner.listener_look('', '')",
            "amqp.listener_status()",
        ):
            assert somebody.error(f"SELECT {call}").sqlstate == "42501", call
        # Whether the channel has a row is nothing that he is told.
        for channel in ("c", "d"):
            report = somebody.error("SELECT amqp.notify(%s, '')", channel)
            assert report.sqlstate == "42501"


def test_notify_takes_both_privileges(session: Session, database: str, role: str) -> None:
    session.run("INSERT INTO amqp.listener (channel, broker_id, exchange) VALUES ('c', 1, 'e')")
    session.run(f"GRANT USAGE ON SCHEMA amqp TO {role}")
    grants = ("SELECT ON amqp.listener", "INSERT ON amqp.outbox")
    for missing in grants:
        for granted in grants:
            session.run(f"GRANT {granted} TO {role}")
        session.run(f"REVOKE {missing} FROM {role}, PUBLIC")
        with open_session(database, role=role) as somebody:
            assert somebody.error("SELECT amqp.notify('c', '')").sqlstate == "42501", missing
    for granted in grants:
        session.run(f"GRANT {granted} TO {role}")
    with open_session(database, role=role) as somebody:
        somebody.execute("SELECT amqp.notify('c', '')")


def test_the_daemon_needs_no_more_than_the_page_says_and_nothing_less(
    session: Session, database: str, role: str, broker: VHost
) -> None:
    session.run(f"GRANT USAGE ON SCHEMA amqp TO {role}")
    session.run("REVOKE ALL ON amqp.outbox FROM PUBLIC")
    for table, privileges in GRANTS.items():
        session.run(f"GRANT {privileges} ON amqp.{table} TO {role}")
    with switchboard(database, broker) as make:
        listener = make(broker_id=session.value("SELECT max(broker_id) FROM amqp.broker"))
        for table, privileges in GRANTS.items():
            if table == "outbox":
                continue
            session.run(f"REVOKE ALL ON amqp.{table} FROM {role}")
            denied = f"permission denied for table {table}"
            with ListenProcess(f"{database} user={role}") as daemon:
                wait_for(
                    lambda: any(
                        denied in event["error"]  # noqa: B023 -- waited for here
                        for event in daemon.events("database not usable")
                    ),
                    LIMIT,
                    denied,
                )
                session.run(f"GRANT {privileges} ON amqp.{table} TO {role}")
                listener.wait_until_heard()
        listener.session.execute("DELETE FROM amqp.listener_state")
        with ListenProcess(f"{database} user={role}"):
            listener.wait_until_heard()
            listener.notify("a")
            listener.wait_for_texts("a")
            listener.wait_until("the report", lambda status: status["published"] == 1)


def test_without_the_right_to_connect_it_says_so_once(
    session: Session, database: str, role: str, broker: VHost
) -> None:
    name = session.info.dbname
    with switchboard(database, broker) as make:
        listener = make(broker_id=session.value("SELECT max(broker_id) FROM amqp.broker"))
        session.run(f"GRANT USAGE ON SCHEMA amqp TO {role}")
        for table, privileges in GRANTS.items():
            session.run(f"GRANT {privileges} ON amqp.{table} TO {role}")
        session.run(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
        with ListenProcess(f"{database} user={role}") as daemon:
            # Of both sessions.
            failed = daemon.wait_for_event("database not usable", 2)
            assert f'permission denied for database "{name}"' in failed["error"]
            session.run(f"GRANT CONNECT ON DATABASE {name} TO {role}")
            listener.wait_until_heard()
            assert len(daemon.events("database not usable")) == 2
