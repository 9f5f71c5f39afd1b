"""A password is sent as the bytes that the database has, and shown by nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from pg_amqp_py.wire import methods
from servers.management import Management
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from support.fix_servers import VHost
from support.health import watched
from support.messages import Inbox
from support.outbox import put, wait_until_empty
from support.patience import LIMIT
from support.sessions import Session, open_session


@pytest.fixture
def ascii_session(postgres: PostgreSQL, broker: VHost) -> Iterator[Session]:
    """A session in an SQL_ASCII database, which takes any bytes."""
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE ascii TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C'")
        with open_session(postgres.dsn("ascii")) as session:
            session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            session.execute("SELECT amqp.add_broker(%s)", [broker.url()])
            yield session
        admin.execute("DROP DATABASE ascii WITH (FORCE)")


@pytest.mark.parametrize("column", ["password", "username", "host", "ssl_cacert"])
def test_bytes_that_are_no_text(postgres: PostgreSQL, ascii_session: Session, column: str) -> None:
    ascii_session.execute("UPDATE amqp.broker SET password = 'secret-word'")
    ascii_session.execute(
        rf"UPDATE amqp.broker SET {column} = E'secret-word\xff\xe9', ssl = %s",
        [column[:3] == "ssl"],
    )
    put(ascii_session)
    with watched(postgres.dsn("ascii")) as (relay, _):

        def told() -> str:
            return str(relay.health(503))

        wait_for(lambda: "could not connect" in told(), LIMIT, "/health to say why")
        assert relay.events("delivery failed") == relay.events("relay failed") == []
        if column == "password":
            assert "secret-word" not in relay.log_text() + told()
            assert "ACCESS_REFUSED" in told()


def test_a_password_of_other_bytes_is_right(
    postgres: PostgreSQL,
    ascii_session: Session,
    broker: VHost,
    management: Management,
    channel: BlockingChannel,
) -> None:
    """As UTF-8, which is what RabbitMQ was told."""
    inbox = Inbox(channel)
    management.create_user("bytes", "zwölf")
    try:
        management.grant(broker.vhost, "bytes", write=".*")
        ascii_session.execute(
            r"UPDATE amqp.broker SET username = 'bytes', password = E'zw\xc3\xb6lf'"
        )
        put(ascii_session, "message")
        with watched(postgres.dsn("ascii")):
            wait_until_empty(ascii_session)
    finally:
        management.delete_user("bytes")
    assert inbox.texts() == ["message"]


def test_the_login_has_the_bytes_of_the_database() -> None:
    password = b"secret\xff\xe9".decode(errors="surrogateescape")
    assert b"\0guest\0secret\xff\xe9" in methods.start_ok({}, "guest", password)
