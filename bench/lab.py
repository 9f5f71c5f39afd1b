"""The servers that everything is measured on, and what all figures need of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import click
import psycopg
from psycopg.pq import ExecStatus

from bench import roundtrip
from bench.limit import Limit, repeated
from bench.sizes import Sizes
from servers.postgres import PostgreSQL
from servers.processes import temporary_folder
from servers.rabbitmq import RabbitMQ

Session = psycopg.Connection[tuple[Any, ...]]

PEER = "peer"
"""How the other extension is called in all tables."""
IN_C = "the same round trip in C"
BODY = "x" * 100
"""Of a message that is alone in its transaction."""
_SETTINGS = {"shared_buffers": "256MB", "max_connections": "200"}
# What is measured beside the extension: a PL/Python function that does nothing at all, and one that
# is handed what amqp.publish() is handed; and the role of an ordinary application.
_SET_UP = """
CREATE EXTENSION pg_amqp_py CASCADE;
SELECT amqp.add_broker('{url}');
SELECT amqp.exchange_declare(1, 'events', 'topic', false, true);
SELECT amqp.queue_declare(1, 'bench');
SELECT amqp.queue_bind(1, 'bench', 'events', 'bench');
CREATE SCHEMA bench;
CREATE FUNCTION bench.nothing() RETURNS boolean LANGUAGE plpython3u AS 'return True';
CREATE FUNCTION bench.nothing(
    broker_id integer, exchange text, routing_key text, message text, delivery_mode integer DEFAULT NULL,
    content_type text DEFAULT NULL, reply_to text DEFAULT NULL, correlation_id text DEFAULT NULL,
    mandatory boolean DEFAULT NULL, headers jsonb DEFAULT NULL, content_encoding text DEFAULT NULL,
    priority integer DEFAULT NULL, expiration text DEFAULT NULL, message_id text DEFAULT NULL,
    "timestamp" timestamptz DEFAULT NULL, type text DEFAULT NULL, user_id text DEFAULT NULL,
    app_id text DEFAULT NULL
) RETURNS boolean LANGUAGE plpython3u AS 'return True';
CREATE FUNCTION bench.python_version() RETURNS text LANGUAGE plpython3u
AS 'import platform; return platform.python_version()';
CREATE ROLE shop LOGIN;
GRANT USAGE ON SCHEMA amqp, bench TO shop;
GRANT CREATE ON SCHEMA bench TO shop;
"""  # noqa: E501 -- as the parameters of amqp.publish() stand there


class Spent(NamedTuple):
    """Seconds of a transaction."""

    statement: float
    commit: float = 0.0

    @property
    def total(self) -> float:
        """Both together."""
        return self.statement + self.commit


@dataclass
class Lab:
    """Private servers with a broker, an exchange and a queue, and whoever publishes to them."""

    postgres: PostgreSQL
    rabbitmq: RabbitMQ
    session: Session
    """A superuser's, for everything that is not measured, and for what has no need of its own."""
    limit: Limit
    sizes: Sizes
    peer: str | None
    """The connection string of a database with another amqp.publish()."""
    in_c: str | None
    """The statement with the same round trip in C, as far as it could be compiled."""

    def say(self, what: str) -> None:
        """Tell who waits what is measured now."""
        click.echo(f"{time.strftime('%H:%M:%S')} {what}", err=True)

    @contextmanager
    def connect(
        self, dsn: str | None = None, *, user: str = "postgres", **settings: str
    ) -> Iterator[Session]:
        """A session of its own, in autocommit mode, with these settings of the extension.

        Raises RuntimeError at its end if there was a WARNING: what was not confirmed in time must
        not pass for fast. Only who has on_failure set expects one.
        """
        if dsn is None:
            # A pause of the broker shall make a round slow, not end the run.
            settings = {"confirm_timeout": "60s", **settings}
        warnings: list[str | None] = []
        with psycopg.connect(dsn or self.postgres.dsn(user=user), autocommit=True) as session:
            for name, value in settings.items():
                session.execute("SELECT set_config(%s, %s, false)", [f"amqp.{name}", value])
            session.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
            yield session
        if warnings and "on_failure" not in settings:
            raise RuntimeError(f"not measured: {warnings[0]}")

    def purge(self) -> None:
        """Empty the queue, so that what was measured before is not in the way of what follows."""
        self.session.execute("SELECT amqp.queue_purge(1, 'bench')")
        # The broker's clearing up goes on a little behind its answer.
        time.sleep(self.sizes.pause)

    def purged(self, action: Callable[[], Spent]) -> Callable[[], Spent]:
        """The action, and the queue is empty again after it."""

        def both() -> Spent:
            spent = action()
            self.purge()
            return spent

        return both


def transaction(session: Session, statement: str, *parameters: object) -> Spent:
    """What a statement in a transaction of its own takes, and what its COMMIT."""
    pgconn = session.pgconn
    start = time.perf_counter()
    pgconn.exec_(b"BEGIN")
    session.execute(statement.encode(), parameters, prepare=True)
    between = time.perf_counter()
    committed = pgconn.exec_(b"COMMIT")
    end = time.perf_counter()
    if committed.status != ExecStatus.COMMAND_OK:
        raise RuntimeError(f"not committed: {committed.error_message.decode()}")
    return Spent(between - start, end - between)


def prepared(session: Session, statement: str) -> Callable[[], float]:
    """Something that executes a statement, prepared, and returns the seconds that this took.

    It calls libpq itself, as nothing else adds less to what is measured. Errors are none of its
    business: they are measured, too.
    """
    pgconn, name = session.pgconn, b"bench"
    pgconn.prepare(name, statement.encode())

    def call() -> float:
        start = time.perf_counter()
        pgconn.exec_prepared(name, None)
        return time.perf_counter() - start

    return call


@contextmanager
def open_lab(sizes: Sizes, peer: str | None) -> Iterator[Lab]:
    """Start the servers and set up what is measured; at the end nothing is left."""
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgreSQL(durable=True, settings=_SETTINGS))
        rabbitmq = stack.enter_context(RabbitMQ())
        session = stack.enter_context(psycopg.connect(postgres.dsn(), autocommit=True))
        session.execute(_SET_UP.format(url=rabbitmq.url()).encode())
        limit = Limit(rabbitmq.amqp_port)
        stack.callback(limit.close)
        if peer is not None:
            _point_peer_at(peer, rabbitmq)
        in_c = _round_trip_in_c(postgres, rabbitmq, session, stack)
        yield Lab(postgres, rabbitmq, session, limit, sizes, peer, in_c)


def _round_trip_in_c(
    postgres: PostgreSQL, rabbitmq: RabbitMQ, session: Session, stack: ExitStack
) -> str | None:
    library = roundtrip.build(postgres.bindir, stack.enter_context(temporary_folder()))
    if library is None:
        click.echo(roundtrip.MISSING, err=True)
        return None
    session.execute(roundtrip.CREATE.format(library=library).encode())
    return roundtrip.statement(rabbitmq.amqp_port, repeated(1, BODY.encode(), None))


def _point_peer_at(dsn: str, rabbitmq: RabbitMQ) -> None:
    """Let broker 1 of the other database be the one that we publish to as well."""
    broker = ["127.0.0.1", rabbitmq.amqp_port, "/", "guest", "guest"]
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("DELETE FROM amqp.broker WHERE broker_id = 1")
        session.execute(
            "INSERT INTO amqp.broker (broker_id, host, port, vhost, username, password)"
            " VALUES (1, %s, %s, %s, %s, %s)",
            broker,
        )
