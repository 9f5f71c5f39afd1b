"""The thread that puts into the outbox what the broker does not take, where that fails, too."""

from __future__ import annotations

import json

import pytest

from servers.postgres import PostgreSQL
from servers.proxy import CuttingProxy
from servers.relay import ListenProcess
from support.fix_servers import VHost
from support.listeners import Listener, switchboard
from support.sessions import open_session


def stored(listener: Listener) -> list[str]:
    """The payloads of notifications that wait in the outbox."""
    rows = listener.session.run(
        "SELECT convert_from(body, 'UTF8') FROM amqp.outbox WHERE type IS NULL ORDER BY id"
    )
    return [text for (text,) in rows]


def add_trigger(listener: Listener, body: str) -> None:
    """Let this happen, as PL/pgSQL, before a row of the outbox is inserted."""
    listener.session.execute(
        "CREATE FUNCTION before_message() RETURNS trigger LANGUAGE plpgsql AS $$"
        " DECLARE payload text := convert_from(NEW.body, 'UTF8');"
        f" BEGIN {body} RETURN NEW; END $$"
    )
    listener.session.execute(
        "CREATE TRIGGER before_message BEFORE INSERT ON amqp.outbox"
        " FOR EACH ROW EXECUTE FUNCTION before_message()"
    )


def notify_at_once(listener: Listener, *payloads: str) -> None:
    """Send notifications in one transaction."""
    listener.session.run(
        "SELECT pg_notify(%s, p) FROM unnest(%s::text[]) AS p", listener.name, list(payloads)
    )


def test_a_session_that_dies_while_the_one_at_fault_is_sought_loses_nothing(
    database: str, broker: VHost, proxy: CuttingProxy
) -> None:
    with switchboard(database, broker, port=proxy.port) as make:
        listener = make()
        listener.session.execute("CREATE SEQUENCE public.deaths")
        add_trigger(
            listener,
            "IF payload = 'bad' THEN RAISE check_violation; END IF;"
            " IF payload = 'die' AND nextval('public.deaths') = 1 THEN"
            " PERFORM pg_terminate_backend(pg_backend_pid()); END IF;",
        )
        with ListenProcess(database):
            listener.wait_until_heard()
            proxy.refuse()
            notify_at_once(listener, "bad", "a", "die", "b")
            listener.wait_until(
                "all", lambda status: (status["stored"], status["dropped"]) == (3, 1)
            )
            assert sorted(stored(listener)) == ["a", "b", "die"]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_databases_of_other_encodings(
    postgres: PostgreSQL, broker: VHost, proxy: CuttingProxy, encoding: str
) -> None:
    with open_session(postgres.dsn()) as admin:
        admin.run(f"CREATE DATABASE other ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        try:
            _store_umlauts(postgres.dsn("other"), broker, proxy)
        finally:
            admin.run("DROP DATABASE other WITH (FORCE)")


def _store_umlauts(dsn: str, broker: VHost, proxy: CuttingProxy) -> None:
    with open_session(f"{dsn} client_encoding=UTF8") as session:
        session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
    with switchboard(f"{dsn} client_encoding=UTF8", broker, port=proxy.port) as make:
        listener = make("kanäle", exchange="kanäle", headers='{"ä": "ö"}')
        proxy.refuse()
        with ListenProcess(dsn) as listening:
            listener.wait_until("the gap", lambda status: status["gaps"] == 1)
            listener.notify("ü")
            listener.wait_until("the outbox", lambda status: status["stored"] == 1)
            assert not listening.events("notifications not stored")
        assert stored(listener) == ["ü"]
        assert listener.session.value("SELECT headers ->> 'ä' FROM amqp.outbox LIMIT 1") == "ö"


def test_what_cannot_be_stored_is_logged_once(
    database: str, broker: VHost, proxy: CuttingProxy
) -> None:
    with switchboard(database, broker, port=proxy.port) as make:
        listener = make()
        add_trigger(listener, "RAISE EXCEPTION 'not here' USING ERRCODE = 'AB001';")
        proxy.refuse()
        with ListenProcess(database) as listening:
            listener.wait_until("a LISTEN", lambda status: status["since"])
            for number in range(1, 4):
                listener.notify("a")
                listener.wait_for_count("dropped", number)
            listener.session.execute("ALTER TABLE amqp.outbox DISABLE TRIGGER before_message")
            listener.wait_until("the gaps", lambda status: status["gaps"] == 2)
            assert len(listening.events("notifications not stored")) == 1


def test_messages_with_large_headers_are_all_stored(
    database: str, broker: VHost, proxy: CuttingProxy
) -> None:
    with switchboard(database, broker, port=proxy.port) as make:
        listener = make(headers=json.dumps({"h": "x" * 128_000}))
        with ListenProcess(database):
            listener.wait_until_heard()
            proxy.refuse()
            notify_at_once(listener, *map(str, range(700)))
            listener.wait_for_count("stored", 700)
