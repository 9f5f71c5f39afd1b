"""amqp.request(): a question from a query, and its answer with all that a message has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import sql

from servers.certificates import Certificates
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.rabbitmq import RabbitMQ
from support.answering import Question, Responder
from support.fix_servers import VHost
from support.patience import LIMIT
from support.sessions import Session, open_session

ASK = "SELECT amqp.body_text(r) FROM amqp.request(1, '', 'pricing', %s::text) AS r"


def test_the_price_of_a_thing(session: Session, broker: VHost) -> None:
    with Responder(broker.url(), lambda q: q.answer(b'{"price": 12.5}')) as responder:
        found = session.value(
            "SELECT amqp.body_json(r) FROM"
            """ amqp.request(1, '', 'pricing', '{"sku": 7}'::jsonb, timeout => '2s') AS r"""
        )
        assert found == {"price": 12.5}
        question = responder.wait_for_question()
    assert question.body == b'{"sku": 7}'
    assert question.properties.content_type == "application/json"
    assert question.properties.reply_to.startswith("amq.rabbitmq.reply-to.")
    assert 1000 < int(question.properties.expiration) <= 2000


def test_everything_that_a_request_is_given_arrives(session: Session, broker: VHost) -> None:
    with Responder(broker.url()) as responder:
        session.run(
            """SELECT amqp.request(1, '', 'pricing', '\\x00ff'::bytea, delivery_mode => 2,
                   content_type => 'a/b', headers => '{"a": 1, "b": [true, null, "ü"]}',
                   content_encoding => 'gzip', priority => 7, message_id => 'm',
                   "timestamp" => '2026-01-02 03:04:05+00', type => 't', user_id => 'guest',
                   app_id => 'app', timeout => '30s')"""
        )
        question = responder.wait_for_question()
    given = question.properties
    assert question.body == b"\0\xff"
    assert (given.delivery_mode, given.content_type, given.content_encoding) == (2, "a/b", "gzip")
    assert given.headers == {"a": 1, "b": [True, None, "ü"]}
    assert (given.priority, given.message_id, given.timestamp) == (7, "m", 1767323045)
    assert (given.type, given.user_id, given.app_id) == ("t", "guest", "app")
    assert given.cluster_id is None


def test_everything_that_a_reply_has_is_returned(session: Session, broker: VHost) -> None:
    def answer(question: Question) -> None:
        question.answer(
            b"\0\xff\n",
            content_type="a/b",
            content_encoding="gzip",
            headers={"n": 1, "list": ["ü", None], "at": datetime(2026, 1, 2, tzinfo=UTC)},
            delivery_mode=1,
            priority=255,
            reply_to="elsewhere",
            expiration="60000",
            message_id="m",
            timestamp=1767323045,
            type="t",
            user_id="guest",
            app_id="ünïcode",
            cluster_id="c",
        )

    with Responder(broker.url(), answer) as responder:
        cursor = session.execute("SELECT (r).* FROM amqp.request(1, '', 'pricing', 'x') AS r")
        assert cursor.description is not None
        (row,) = cursor.fetchall()
        asked = responder.wait_for_question().properties
    found = {column.name: value for column, value in zip(cursor.description, row, strict=True)}
    assert found.pop("received_at").timestamp() == pytest.approx(
        session.value("SELECT now()").timestamp(), abs=60
    )
    assert found == {
        "broker_id": 1,
        "queue": "amq.rabbitmq.reply-to",
        "exchange": "",
        "routing_key": asked.reply_to,
        "redelivered": False,
        "content_type": "a/b",
        "content_encoding": "gzip",
        "headers": {"n": 1, "list": ["ü", None], "at": "2026-01-02T00:00:00Z"},
        "delivery_mode": 1,
        "priority": 255,
        "correlation_id": asked.correlation_id,
        "reply_to": "elsewhere",
        "expiration": "60000",
        "message_id": "m",
        "timestamp": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "type": "t",
        "user_id": "guest",
        "app_id": "ünïcode",
        "cluster_id": "c",
        "body": b"\0\xff\n",
        "stream_offset": None,
    }


@pytest.mark.parametrize(
    ("message", "body"),
    [("'ü'::text", "ü".encode()), ("'{\"a\": 1}'::jsonb", b'{"a": 1}'), ("NULL::text", b"")],
)
def test_each_type_of_message(session: Session, broker: VHost, message: str, body: bytes) -> None:
    with Responder(broker.url()):
        found = session.value(f"SELECT (amqp.request(1, '', 'pricing', {message})).body")
    assert found == body


@pytest.mark.slow
def test_a_large_request_has_a_large_reply(session: Session, broker: VHost) -> None:
    with Responder(broker.url()):
        assert session.value(
            """SELECT (amqp.request(1, '', 'pricing', m.bytes, timeout => '5min')).body = m.bytes
               FROM (SELECT decode(string_agg(md5(n::text), ''), 'hex') AS bytes
                     FROM generate_series(1, 1250000) AS n) AS m"""
        )


@pytest.mark.slow
def test_over_tls(session: Session, broker: VHost, certificates: Certificates) -> None:
    number = session.add_broker(broker.url(tls=True))
    update = "UPDATE amqp.broker SET ssl_cacert = %s WHERE broker_id = %s"
    session.run(update, str(certificates.ca), number)
    asked = f"amqp.request({number}, '', 'pricing', repeat('y', %s), timeout => '5min')"
    with Responder(broker.url()):
        for size in (0, 1, 300_000, 3_000_000):
            found = session.value(f"SELECT length(amqp.body_text(r)) FROM {asked} AS r", size)
            assert found == size


@pytest.mark.slow
def test_thousands_of_requests_in_one_transaction(session: Session, broker: VHost) -> None:
    with Responder(broker.url()), session.transaction():
        assert (
            session.value(
                """SELECT count(*) FROM generate_series(1, 3000) AS n,
                   LATERAL amqp.request(1, '', 'pricing', n::text) AS r
               WHERE amqp.body_text(r) = n::text"""
            )
            == 3000
        )


def test_what_is_rolled_back_was_asked_all_the_same(
    session: Session, broker: VHost, inbox: Any
) -> None:
    with Responder(broker.url()) as responder:
        session.run("BEGIN")
        session.run("SELECT amqp.publish(1, 'amq.topic', 'key', 'published')")
        session.run("SAVEPOINT s")
        assert session.value(ASK, "in a savepoint") == "in a savepoint"
        session.run("ROLLBACK TO s")
        assert session.value(ASK, "again") == "again"
        assert inbox.texts() == []
        session.run("ROLLBACK")
        assert [q.body for q in responder.questions] == [b"in a savepoint", b"again"]
    assert inbox.texts() == []


def test_a_request_among_messages_that_are_published(
    session: Session, broker: VHost, inbox: Any
) -> None:
    with Responder(broker.url()):
        with session.transaction():
            session.run("SELECT amqp.publish(1, 'amq.topic', 'key', 'before')")
            assert session.value(ASK, "x") == "x"
            session.run("SELECT amqp.publish(1, 'amq.topic', 'key', 'behind')")
        assert inbox.texts() == ["before", "behind"]
    assert session.warnings() == []


def test_through_an_exchange(session: Session, broker: VHost, channel: BlockingChannel) -> None:
    with Responder(broker.url()):
        channel.queue_bind("pricing", "amq.direct", "prices")
        channel.queue_bind("pricing", "amq.topic", "#")
        for exchange, key in ("NULL", "'prices'"), ("'amq.topic'", "NULL"):
            asked = f"amqp.request(1, {exchange}, {key}, 'x')"
            assert session.value(f"SELECT amqp.body_text(r) FROM {asked} AS r") == "x"


def test_in_a_function_a_do_block_and_a_trigger(session: Session, broker: VHost) -> None:
    session.run(
        """CREATE FUNCTION price(sku int) RETURNS int LANGUAGE plpgsql AS $$
           BEGIN
               RETURN amqp.body_text(r)::int FROM amqp.request(1, '', 'pricing', sku::text) AS r;
           END $$;
           CREATE TABLE things (sku int, price int);
           CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN NEW.price := price(NEW.sku); RETURN NEW; END $$;
           CREATE TRIGGER fill BEFORE INSERT ON things FOR EACH ROW EXECUTE FUNCTION fill()"""
    )
    with Responder(broker.url()):
        assert session.value("SELECT price(7)") == 7
        session.run("INSERT INTO things VALUES (8), (9)")
        session.run("DO $$ BEGIN INSERT INTO things SELECT 10; PERFORM price(11); END $$")
        assert session.run("SELECT * FROM things") == [(8, 8), (9, 9), (10, 10)]


def test_an_error_that_is_caught_leaves_the_session_as_it_was(
    session: Session, broker: VHost
) -> None:
    session.run(
        """CREATE FUNCTION ask(queue text, given interval = '5min') RETURNS text
           LANGUAGE plpgsql AS $$
           BEGIN
               RETURN amqp.body_text(r)
               FROM amqp.request(1, '', queue, 'x', timeout => given) AS r;
           EXCEPTION WHEN SQLSTATE 'MQ001' OR SQLSTATE 'MQ002' OR undefined_object THEN
               RETURN SQLSTATE;
           END $$"""
    )
    with Responder(broker.url()) as responder, session.transaction():
        for _ in range(3):
            assert session.value("SELECT ask('missing')") == "42704"
            assert session.value("SELECT ask('pricing')") == "x"
    last = "SELECT ask('pricing', '100ms')"
    wait_for(lambda: session.value(last) == "MQ002", LIMIT, "no consumer")
    assert len(responder.questions) == 3


def test_in_a_transaction_that_only_reads(session: Session, broker: VHost) -> None:
    with Responder(broker.url()):
        session.run("BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY")
        assert session.value(ASK, "x") == "x"
        session.run("COMMIT")


def test_two_brokers(session: Session, broker: VHost, rabbitmq: RabbitMQ, management: Any) -> None:
    management.create_vhost("second")
    second = VHost(rabbitmq, "second")
    try:
        session.add_broker(second.url())
        with (
            Responder(broker.url(), lambda q: q.answer("one")),
            Responder(second.url(), lambda q: q.answer("two")),
        ):
            for _ in range(2):
                answers = session.run(
                    "SELECT amqp.body_text(r) FROM generate_series(1, 2) AS b,"
                    " LATERAL amqp.request(b, '', 'pricing', 'x') AS r ORDER BY b"
                )
                assert answers == [("one",), ("two",)]
    finally:
        management.delete_vhost("second")


def test_on_a_hot_standby(broker: VHost) -> None:
    with PostgreSQL() as primary, Responder(broker.url()):
        with open_session(primary.dsn()) as session:
            session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
            session.add_broker(broker.url())
            end = session.value("SELECT pg_current_wal_lsn()")
        with PostgreSQL(standby_of=primary) as standby, open_session(standby.dsn()) as session:
            replayed = "SELECT pg_last_wal_replay_lsn() >= %s"
            wait_for(lambda: session.value(replayed, end), LIMIT, "the standby to catch up")
            assert session.value("SELECT pg_is_in_recovery()")
            assert session.value(ASK, "from a standby") == "from a standby"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_databases_in_other_encodings(
    postgres: PostgreSQL, session: Session, broker: VHost, encoding: str
) -> None:
    create = "CREATE DATABASE narrow ENCODING {} LOCALE 'C' TEMPLATE template0"
    session.run(sql.SQL(create).format(sql.Literal(encoding)))
    try:
        with Responder(broker.url()), open_session(postgres.dsn("narrow")) as narrow:
            narrow.run("CREATE EXTENSION pg_amqp_py CASCADE")
            narrow.add_broker(broker.url())
            asked = "amqp.request(1, '', 'pricing', %s::bytea)"
            assert narrow.value(f"SELECT ({asked}).body", b"\0\xff") == b"\0\xff"
            # As publish() has it: text goes out in UTF-8.
            if encoding == "LATIN1":
                narrow.run("SET client_encoding = 'UTF8'")
                asked = "amqp.request(1, '', 'pricing', 'ü'::text)"
                assert narrow.value(f"SELECT amqp.body_text(r) FROM {asked} AS r") == "ü"
    finally:
        session.run("DROP DATABASE narrow WITH (FORCE)")


@pytest.mark.parametrize("style", ["postgres", "postgres_verbose", "sql_standard", "iso_8601"])
def test_a_timeout_means_the_same_in_every_style(
    session: Session, broker: VHost, style: str
) -> None:
    session.run(f"SET intervalstyle = '{style}'")
    with Responder(broker.url()) as responder:
        for timeout in ("1.5s", "2 min", "24h", "1 hour -30 min", "1 day"):
            session.run(f"SELECT amqp.request(1, '', 'pricing', 'x', timeout => '{timeout}')")
            wanted = session.value(f"SELECT extract(epoch FROM interval '{timeout}')::float * 1000")
            given = int(responder.questions[-1].properties.expiration)
            assert wanted - 1000 < given <= wanted


def test_the_connection_is_shown_and_closed(
    session: Session, broker: VHost, management: Any
) -> None:
    def names() -> list[str]:
        found = management.connections(broker.vhost)
        return [one["client_properties"].get("connection_name", "") for one in found]

    with Responder(broker.url()):
        session.run(ASK, "x")
        assert session.run("SELECT connected, published FROM amqp.status()") == [(True, 0)]
        name = f"PostgreSQL backend {session.pid}, requests"
        wait_for(lambda: names().count(name) == 1, LIMIT, "the connection to be shown")
        session.run(ASK, "x")
        session.run("SELECT amqp.disconnect(1)")
        assert session.run("SELECT connected FROM amqp.status()") == [(False,)]
        wait_for(lambda: name not in names(), LIMIT, "the connection to go")
        assert session.value(ASK, "x") == "x"


def test_a_changed_row_counts_from_the_next_request(
    session: Session, broker: VHost, rabbitmq: RabbitMQ, management: Any
) -> None:
    management.create_vhost("moved")
    moved = VHost(rabbitmq, "moved")
    try:
        with (
            Responder(broker.url(), lambda q: q.answer("before")),
            Responder(moved.url(), lambda q: q.answer("behind")),
        ):
            assert session.value(ASK, "x") == "before"
            session.run("UPDATE amqp.broker SET vhost = 'moved'")
            assert session.value(ASK, "x") == "behind"
    finally:
        management.delete_vhost("moved")


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_kinds_of_queues(session: Session, broker: VHost, kind: str) -> None:
    arguments = {"x-queue-type": kind}
    with Responder(broker.url(), durable=True, arguments=arguments):
        for text in "ab":
            assert session.value(ASK, text) == text


def test_a_queue_that_is_somebody_s_own(session: Session, broker: VHost) -> None:
    """RabbitMQ lets nobody look at it, but everybody publish to it."""
    with Responder(broker.url(), exclusive=True):
        for text in "ab":
            assert session.value(ASK, text) == text


def test_nobody_else_s_message_asks_with_this_reply_to(session: Session) -> None:
    error = session.error(
        "SELECT amqp.publish(1, '', 'pricing', 'x', reply_to => 'amq.rabbitmq.reply-to')"
    )
    assert error.sqlstate == "22023"


def test_pika_is_no_help_to_a_request(session: Session, broker: VHost) -> None:
    """What is loaded for it: no pika, no asyncio."""
    session.run(
        """CREATE FUNCTION loaded() RETURNS text[] LANGUAGE plpython3u
           AS 'import sys; return sorted(sys.modules)'"""
    )
    with Responder(broker.url()):
        session.run(ASK, "x")
    loaded = session.value("SELECT loaded()")
    assert "pg_amqp_py.wire.request.channel" in loaded
    assert not {"pika", "asyncio", "ssl", "pg_amqp_py.wire.consume.channel"} & {*loaded}
