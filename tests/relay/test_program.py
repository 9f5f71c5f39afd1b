"""pg-amqp relay as a program: options, environment, --once, metrics, and what it logs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import termios
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy
from servers.relay import PROGRAM, RelayProcess
from support.fix_servers import VHost
from support.messages import Inbox
from support.outbox import (
    dead,
    in_outbox,
    put,
    put_many,
    wait_until_empty,
    wait_until_refused,
    worker_of,
)
from support.patience import LIMIT
from support.sessions import Session, open_session


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call pg-amqp relay; it must end by itself."""
    return subprocess.run(
        [PROGRAM, "relay", *arguments], capture_output=True, text=True, timeout=LIMIT, check=False
    )


# ---- How it is called ----


def test_a_connection_string_that_is_none(postgres: PostgreSQL) -> None:
    for dsn in (
        "password=secret-word nonsense",
        "postgresql://me:secret-word@[host/db",
        "x=secret-word",
    ):
        answer = called("--dsn", dsn)
        assert answer.returncode == 2
        assert "not a connection string or URI of PostgreSQL" in answer.stderr
        assert "secret-word" not in answer.stdout + answer.stderr


@pytest.mark.parametrize("address", ["9187", "localhost:", "localhost:http", ":70000"])
def test_an_address_that_is_none(address: str) -> None:
    answer = called("--listen-metrics", address)
    assert answer.returncode == 2
    assert "not HOST:PORT" in answer.stderr


def test_an_address_that_is_taken(postgres: PostgreSQL) -> None:
    answer = called("--dsn", postgres.dsn(), "--listen-metrics", f"127.0.0.1:{postgres.port}")
    assert answer.returncode == 1
    assert f"could not listen on 127.0.0.1:{postgres.port}" in answer.stderr


def test_the_database_from_the_environment(
    database: str, session: Session, inbox: Inbox, tmp_path: Path
) -> None:
    given = conninfo_to_dict(database)
    variables = {
        "PGHOST": str(given["host"]),
        "PGPORT": str(given["port"]),
        "PGDATABASE": str(given["dbname"]),
        "PGUSER": str(given["user"]),
    }
    put(session, "1")
    with RelayProcess(None, env=variables):
        wait_until_empty(session)
    services = tmp_path / "services.conf"
    lines = "".join(f"{name}={value}\n" for name, value in given.items())
    services.write_text(f"[outbox]\n{lines}")
    put(session, "2")
    with RelayProcess("service=outbox", env={"PGSERVICEFILE": str(services)}):
        wait_until_empty(session)
    put(session, "3")
    uri = (
        f"postgresql://{given['user']}@/{given['dbname']}?host={given['host']}&port={given['port']}"
    )
    with RelayProcess(uri):
        wait_until_empty(session)
    put(session, "4")
    with RelayProcess(f"{uri}&application_name=me@here"):
        wait_until_empty(session)
    assert inbox.texts() == ["1", "2", "3", "4"]


# ---- --once ----


def test_once(database: str, session: Session, inbox: Inbox) -> None:
    put_many(session, 1000)
    put(session, "later", deliver_at="2090-01-01")
    refused = put(session, "refused", exchange="no such exchange")
    answer = called("--once", "--dsn", database)
    # What was due is left.
    assert answer.returncode == 1, answer.stderr
    assert answer.stdout == ""
    # No bar of progress where nobody looks.
    assert [json.loads(line)["event"] for line in answer.stderr.splitlines()] == [
        "working the outbox",
        "connected to broker",
        "messages not delivered",
        "not drained",
    ]
    assert "messages were not delivered: 1" in answer.stderr
    assert inbox.texts() == [str(n) for n in range(1, 1001)]
    assert in_outbox(session, "id, attempts > 0") == [(refused - 1, False), (refused, True)]
    session.execute("DELETE FROM amqp.outbox WHERE attempts > 0")
    assert called("--once", "--dsn", database).returncode == 0


def test_once_shows_its_progress_on_a_terminal(database: str, session: Session) -> None:
    put_many(session, 100)
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    try:
        process = subprocess.run(
            [PROGRAM, "relay", "--once", "--dsn", database],
            stderr=slave,
            timeout=LIMIT,
            check=False,
        )
        shown = os.read(master, 1 << 16).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert process.returncode == 0
    assert "100/100" in shown
    assert "messages" in shown
    # On a line of its own, not behind the bar.
    assert re.search(r"[\r\n]([\r\n]|\x1b\[\d*[mK])*\d\d\d\d-\S+ .*working the outbox", shown)
    assert not shown.startswith("{")


def test_once_when_it_cannot(
    database: str, session: Session, postgres: PostgreSQL, proxy: CuttingProxy
) -> None:
    put(session)
    with RelayProcess(database):
        wait_for(lambda: worker_of(session), LIMIT, "the relay to work")
        put(session, deliver_at="2090-01-01")
        answer = called("--once", "--dsn", database)
        assert answer.returncode == 1
        assert "another relay works this outbox" in answer.stderr
        wait_for(lambda: len(in_outbox(session)) == 1, LIMIT, "the message to be delivered")
    put(session)
    proxy.refuse()
    session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])
    answer = called("--once", "--dsn", database)
    assert answer.returncode == 1
    assert f"could not connect to 127.0.0.1:{proxy.port}" in answer.stderr
    assert len(in_outbox(session)) == 2
    answer = called("--once", "--dsn", make_conninfo(database, dbname="nowhere"))
    assert answer.returncode == 1
    assert 'database \\"nowhere\\" does not exist' in answer.stderr
    answer = called("--once", "--dsn", postgres.dsn())
    assert answer.returncode == 1
    assert "amqp.broker" in answer.stderr


def test_once_with_messages_for_no_broker(database: str, session: Session, inbox: Inbox) -> None:
    put(session, "1")
    put(session, "2", broker_id=7)
    answer = called("--once", "--dsn", database)
    assert answer.returncode == 1
    last = json.loads(answer.stderr.splitlines()[-1])
    assert (last["level"], last["event"], last["broker_id"]) == ("error", "not drained", 7)
    assert inbox.texts() == ["1"]
    session.execute("UPDATE amqp.outbox SET next_attempt_at = '2090-01-01+00'")
    assert called("--once", "--dsn", database).returncode == 0


# ---- Metrics and health ----


def get(url: str) -> tuple[int, str]:
    """Return the status and the text of an HTTP answer."""
    try:
        with urllib.request.urlopen(url, timeout=LIMIT) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_and_health(
    database: str, session: Session, postgres: PostgreSQL, proxy: CuttingProxy
) -> None:
    session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])
    put(session, deliver_at="2090-01-01")
    with CuttingProxy(postgres.port) as database_proxy:
        dsn = make_conninfo(database, host="127.0.0.1", port=database_proxy.port)
        with RelayProcess(dsn, "--listen-metrics", "127.0.0.1:0") as relay:
            url = relay.wait_for_event("metrics")["url"].removesuffix("/metrics")

            def health(code: int) -> dict[str, object]:
                wait_for(lambda: get(f"{url}/health")[0] == code, LIMIT, f"/health to be {code}")
                known: dict[str, object] = json.loads(get(f"{url}/health")[1])
                return known

            def metrics() -> dict[str, float]:
                status, text = get(f"{url}/metrics")
                assert status == 200
                lines = [line for line in text.splitlines() if not line.startswith("#")]
                return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines)}

            relay.wait_for_event("connected to broker")
            wait_for(lambda: health(200)["brokers"] == {"1": "leading"}, LIMIT, "the relay to lead")
            assert health(200) == {"healthy": True, "database": "ok", "brokers": {"1": "leading"}}
            put_many(session, 3)
            number = put(session, exchange="no such exchange")
            wait_until_refused(session, number)
            wait_for(lambda: len(in_outbox(session)) == 2, LIMIT, "the messages to be delivered")
            names = {
                'pg_amqp_delivered_total{broker_id="1"}': 3,
                'pg_amqp_leading{broker_id="1"}': 1,
                'pg_amqp_connected{broker_id="1"}': 1,
                'pg_amqp_pending{broker_id="1"}': 1,
                'pg_amqp_waiting{broker_id="1"}': 1,
                'pg_amqp_dead{broker_id="1"}': 0,
                "pg_amqp_database_up": 1,
            }

            def shown() -> bool:
                now = metrics()
                assert now['pg_amqp_refused_total{broker_id="1",verdict="refused"}'] >= 1
                return {name: now.get(name) for name in names} == names

            wait_for(shown, LIMIT, f"the metrics {names}")
            assert metrics()['pg_amqp_oldest_seconds{broker_id="1"}'] >= 0
            assert get(f"{url}/else")[0] == 404

            proxy.refuse()
            answer = health(503)
            assert (answer["healthy"], answer["database"]) == (False, "ok")
            trouble = answer["brokers"]
            assert isinstance(trouble, dict)
            assert trouble["1"] != "leading"
            wait_for(
                lambda: metrics()['pg_amqp_connected{broker_id="1"}'] == 0, LIMIT, "the metric"
            )
            proxy.pass_all()
            health(200)

            database_proxy.refuse()
            assert health(503)["database"] != "ok"
            for name in "pg_amqp_database_up", 'pg_amqp_leading{broker_id="1"}':
                wait_for(lambda name=name: metrics()[name] == 0, LIMIT, name)  # type: ignore[misc]
            database_proxy.pass_all()
            health(200)


# ---- Passwords ----


@pytest.fixture
def with_password(postgres: PostgreSQL) -> Iterator[str]:
    """A superuser that has to give the password `right-word`."""
    hba = postgres.data / "pg_hba.conf"
    before = hba.read_text()
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE ROLE relay_user SUPERUSER LOGIN PASSWORD 'right-word'")
        hba.write_text(f"host all relay_user 127.0.0.1/32 scram-sha-256\n{before}")
        admin.execute("SELECT pg_reload_conf()")
        yield "relay_user"
        hba.write_text(before)
        admin.execute("SELECT pg_reload_conf()")
        admin.execute("DROP ROLE relay_user")


def test_no_password_is_ever_shown(
    database: str,
    session: Session,
    postgres: PostgreSQL,
    broker: VHost,
    proxy: CuttingProxy,
    inbox: Inbox,
    with_password: str,
) -> None:
    def dsn(password: str) -> str:
        name = conninfo_to_dict(database)["dbname"]
        return f"postgresql://{with_password}:{password}@127.0.0.1:{postgres.port}/{name}"

    session.execute("UPDATE amqp.broker SET password = 'wrong-broker-word'")
    put(session, "message", headers={"a": 1})
    with RelayProcess(dsn("wrong-word")) as refused:
        # The server may not have read its file yet.
        error = refused.wait_for_event("database not usable")["error"]
        assert "password authentication failed" in error
        assert "wrong-word" not in refused.log_text()
        assert refused.terminate() == 0
    with RelayProcess(dsn("right-word"), "--listen-metrics", "127.0.0.1:0") as relay:
        url = relay.wait_for_event("metrics")["url"]
        error = relay.wait_for_event("broker not reachable")["error"]
        assert "ACCESS_REFUSED" in error
        told = get(url.replace("/metrics", "/health"))[1]
        assert "ACCESS_REFUSED" in told
        session.execute("UPDATE amqp.broker SET port = %s, password = 'guest'", [proxy.port])
        wait_until_empty(session)
        proxy.reset()
        relay.wait_for_event("connection to broker lost")
        postgres_log = postgres.log_text()
        assert relay.terminate() == 0
        for word in ("right-word", "wrong-broker-word", "guest:"):
            assert word not in relay.log_text() + told
        entries = relay.entries()
    assert all({"event", "level", "timestamp"} <= entry.keys() for entry in entries)
    assert "wrong-broker-word" not in postgres_log.replace("UPDATE amqp.broker", "")
    assert inbox.texts() == ["message"]


# ---- Encodings ----


def test_a_database_that_is_not_utf8(
    postgres: PostgreSQL, broker: VHost, channel: BlockingChannel
) -> None:
    """What the broker says may not fit in its encoding, and is no reason to stop."""
    inbox = Inbox(channel)
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE latin_relay TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'")
        try:
            dsn = postgres.dsn("latin_relay")
            with open_session(dsn) as session:
                session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
                session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
                put(session, "zwölf", routing_key="schlüssel", headers={"é": "ü"}, app_id="ö")
                # RabbitMQ cuts its text within a character.
                bad = [
                    put(session, exchange=f"{'e' * odd}{'é' * 120}", ordering_key="ä")
                    for odd in (0, 1)
                ]
                with pytest.raises(psycopg.errors.StringDataRightTruncation):
                    put(session, correlation_id="é" * 200)
                with RelayProcess(dsn) as relay:
                    wait_until_refused(session, bad[0])
                    session.execute("DELETE FROM amqp.outbox WHERE id = %s", [bad[0]])
                    wait_until_refused(session, bad[1])
                    assert dead(session) == []
                    assert relay.events("database not usable") == []
                    assert relay.terminate() == 0
                (message,) = inbox.drain()
                assert (message.text, message.routing_key) == ("zwölf", "schlüssel")
                assert message.properties.headers == {"é": "ü"}
                assert message.properties.app_id == "ö"
        finally:
            admin.execute("DROP DATABASE latin_relay WITH (FORCE)")


def test_bytes_that_are_no_text(
    postgres: PostgreSQL, broker: VHost, channel: BlockingChannel
) -> None:
    """An SQL_ASCII database takes anything; what is not UTF-8 stops nobody else."""
    inbox = Inbox(channel)
    with open_session(postgres.dsn()) as admin:
        admin.execute(
            "CREATE DATABASE bytes_relay TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C'"
        )
        try:
            dsn = postgres.dsn("bytes_relay")
            with open_session(dsn) as session:
                session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
                session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
                # Nobody can insert that any more.
                session.execute("ALTER TABLE amqp.outbox DROP CONSTRAINT outbox_check")
                session.execute(
                    r"INSERT INTO amqp.outbox (broker_id, exchange) VALUES (1, E'\xff')"
                )
                session.execute(
                    r"INSERT INTO amqp.outbox (broker_id, ordering_key) VALUES (1, E'\xff')"
                )
                put(session, "after")
                with RelayProcess(dsn) as relay:
                    wait_until_empty(session)
                    assert len(dead(session)) == 1
                    assert relay.events("relay failed") == []
        finally:
            admin.execute("DROP DATABASE bytes_relay WITH (FORCE)")
    assert inbox.texts() == ["after"]
