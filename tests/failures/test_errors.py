"""Bad input: the SQLSTATE and the words of every error; nothing sent; the session goes on."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from servers.management import Management
from servers.postgres import PostgreSQL
from servers.processes import free_port
from servers.proxy import CuttingProxy, Welcome
from support.calls import Call
from support.fix_servers import VHost
from support.peers import Peer, saying
from support.queues import declare, numbers_in, take
from support.sessions import Report, Session, open_session
from support.shared import shared_fixtures

SECRET = "pa$$w0rd-that-nobody-may-see"


database, broker, session = shared_fixtures()


@pytest.fixture
def broker_id(session: Session, broker: VHost, channel: BlockingChannel) -> int:
    """The test's broker, with exchange and queue events."""
    declare(channel)
    return session.add_broker(broker.url())


def call(function: str = "publish", **arguments: str) -> str:
    """Write a call with these arguments, in SQL, in the place of the usual ones."""
    values = {
        "broker_id": "{broker_id}",
        "exchange": "'events'",
        "routing_key": "'key'",
        "message": "'bad'",
        **arguments,
    }
    listed = ", ".join(f'"{name}" => {value}' for name, value in values.items())
    return f"SELECT amqp.{function}({listed})"


def error_of(session: Session, broker_id: int, query: str) -> Report:
    """Return how the query fails: alone, in a savepoint, and with autonomous_publish alike.

    Between its messages nothing arrives, and the transaction around a savepoint goes on.
    """
    query = query.replace("{broker_id}", str(broker_id))
    report = session.error(sql.SQL(query))
    with session.transaction():
        session.publish(broker_id, "events", [1])
        session.run("SAVEPOINT before")
        again = session.error(sql.SQL(query))
        session.run("ROLLBACK TO before")
        session.publish(broker_id, "events", [2])
    now = session.error(sql.SQL(query.replace("amqp.publish", "amqp.autonomous_publish")))
    assert (report.sqlstate, report.message) == (again.sqlstate, again.message)
    assert (report.sqlstate, report.message) == (now.sqlstate, now.message)
    assert report.message.startswith("amqp: ")
    assert not report.message.endswith(".")
    assert session.warnings() == []
    return report


def assert_only_good_ones(channel: BlockingChannel) -> None:
    """Only the messages around the bad ones arrived."""
    assert take(channel, "events", 2) == ["1", "2"]


BAD = {
    "unknown broker": (
        call(broker_id="4711"),
        "42704",
        "broker 4711 does not exist",
        "amqp.broker",
        "add_broker",
    ),
    "null broker": (call(broker_id="NULL"), "22004", "broker_id must not be null", "", ""),
    "unknown exchange": (
        call(exchange="'nowhere'"),
        "42704",
        'exchange "nowhere" does not exist',
        "no exchange 'nowhere'",
        "exchange_declare",
    ),
    "delivery_mode 3": (
        call(delivery_mode="3"),
        "22023",
        "invalid value for delivery_mode: 3",
        "",
        "1 (transient)",
    ),
    "delivery_mode 0": (call(delivery_mode="0"), "22023", "delivery_mode", "", "2 (persistent)"),
    "priority 256": (call(priority="256"), "22023", "priority: 256", "", "between 0 and 255"),
    "priority -1": (call(priority="-1"), "22023", "priority: -1", "", "between 0 and 255"),
    "expiration abc": (call(expiration="'abc'"), "22023", "expiration: abc", "", "milliseconds"),
    "expiration -1": (call(expiration="'-1'"), "22023", "expiration", "", "milliseconds"),
    "expiration empty": (call(expiration="''"), "22023", "expiration", "", "milliseconds"),
    "expiration 2^32": (call(expiration="'4294967296'"), "22023", "expiration", "", "2^32"),
    "expiration digits": (call(expiration="'٣'"), "22023", "expiration", "", "milliseconds"),
    "timestamp infinity": (call(timestamp="'infinity'"), "22023", "timestamp", "", "1970"),
    "timestamp before 1970": (call(timestamp="'1969-12-31'"), "22023", "timestamp", "", "1970"),
    "headers array": (call(headers="'[1]'"), "22023", "headers must be a JSON object", "", "{"),
    "headers scalar": (call(headers="'1'"), "22023", "headers must be a JSON object", "", "{"),
    "headers null": (call(headers="'null'"), "22023", "headers must be a JSON object", "", "{"),
    "headers integer": (
        call(headers="""'{"n": 9223372036854775809}'"""),
        "22003",
        "headers",
        "",
        "",
    ),
    "headers negative integer": (
        call(headers="""'{"n": {"m": [-9223372036854775809]}}'"""),
        "22003",
        "headers",
        "",
        "",
    ),
    "headers large integer": (
        call(headers="""('{"n": ' || repeat('9', 6000) || '}')::jsonb"""),
        "22003",
        "headers",
        "",
        "",
    ),
    "headers double": (call(headers="""'{"n": 1.5e400}'"""), "22003", "headers", "", ""),
    "headers too large": (
        call(headers="json_build_object('x', repeat('x', 140000))::jsonb"),
        "54000",
        "too large",
        "the limit is 131072",
        "",
    ),
    "headers too many": (
        call(headers="(SELECT jsonb_object_agg(n, n) FROM generate_series(1, 20000) AS n)"),
        "54000",
        "too large",
        "the limit is 131072",
        "",
    ),
    "headers too deep": (
        call(headers="""('{"x": ' || repeat('[', 3000) || repeat(']', 3000) || '}')::jsonb"""),
        "54000",
        "too large",
        "nested too deeply",
        "",
    ),
    "headers key": (
        call(headers="jsonb_build_object(repeat('k', 256), 1)"),
        "22001",
        "key in headers is too long",
        "256 bytes",
        "",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument(
    session: Session, broker_id: int, channel: BlockingChannel, name: str
) -> None:
    query, sqlstate, message, detail, hint = BAD[name]
    report = error_of(session, broker_id, query)
    assert report.sqlstate == sqlstate
    assert message in report.message
    assert detail in report.detail
    assert hint in report.hint
    assert_only_good_ones(channel)


SHORT = [
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
]
"""What AMQP holds in a string of at most 255 bytes."""


@pytest.mark.parametrize("name", SHORT)
def test_256_bytes_are_too_long(
    session: Session, broker_id: int, channel: BlockingChannel, name: str
) -> None:
    for value in ("repeat('x', 256)", "repeat('é', 128)"):
        report = error_of(session, broker_id, call(**{name: value}))
        assert report.sqlstate == "22001"
        assert report.message == f"amqp: {name} is too long"
        assert "256 bytes" in report.detail
        assert_only_good_ones(channel)


def test_255_bytes_are_not_too_long(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    texts = {"x" * 255, "é" * 127 + "x", "€" * 85}
    assert all(len(text.encode()) == 255 for text in texts)
    for text in texts:
        channel.exchange_declare(text, "topic")
        channel.queue_bind("events", text, "#")
        names = [name for name in SHORT[2:] if name != "user_id"]
        listed = ", ".join(f"{name} => %(text)s" for name in names)
        session.execute(
            f"SELECT amqp.publish(%(broker)s, %(text)s, %(text)s, 'x', {listed})",
            {"broker": broker_id, "text": text},
        )
        method, properties, _ = channel.basic_get("events", auto_ack=True)
        assert method.exchange == method.routing_key == text
        assert {getattr(properties, name) for name in names} == {text}
    assert session.warnings() == []


def test_limits_that_are_allowed(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    session.run(
        """SELECT amqp.publish(%s, 'events', 'key', 'x', priority => p, expiration => e,
               delivery_mode => d, "timestamp" => '1970-01-01 00:00:00+00',
               headers => '{"n": 9223372036854775807, "m": -9223372036854775808}')
           FROM (VALUES (0, '4294967295', 1), (255, '3600000', 2)) AS v (p, e, d)""",
        broker_id,
    )
    for expected in (0, "4294967295", 1), (255, "3600000", 2):
        _, properties, _ = channel.basic_get("events", auto_ack=True)
        got = properties.priority, properties.expiration, properties.delivery_mode
        assert got == expected
        assert properties.headers == {"n": (1 << 63) - 1, "m": -(1 << 63)}
        assert properties.timestamp == 0
    assert session.warnings() == []


def test_deep_headers_that_fit_are_taken(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    """Whatever is not refused must arrive: here, 100 levels of it."""
    session.run(
        "SELECT amqp.publish(%s, 'events', 'key', 'x', headers => %s::jsonb)",
        broker_id,
        '{"x": ' + "[" * 100 + "]" * 100 + "}",
    )
    assert take(channel, "events", 1) == ["x"]
    assert session.warnings() == []


# ---- amqp.on_failure = warn ----


def test_warnings_instead_of_errors(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    session.set(on_failure="warn")
    for query, sqlstate, message, detail, hint in BAD.values():
        for one in (query, query.replace("amqp.publish", "amqp.autonomous_publish")):
            assert not session.warnings()
            taken = session.value(sql.SQL(one.replace("{broker_id}", str(broker_id))))
            (report,) = session.warnings()
            assert report.sqlstate == sqlstate
            assert message in report.message
            assert detail in report.detail
            assert hint in report.hint
            # As the C extension does: without the delivery mode that it does not know.
            assert taken == ("delivery_mode" in one)
    assert take(channel, "events", 4) == ["bad"] * 4


def test_unknown_delivery_mode_is_left_out_under_warn(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    session.set(on_failure="warn")
    assert session.value(
        "SELECT amqp.publish(%s, 'events', 'key', 'x', 3, 'text/plain', 'r', 'c')", broker_id
    )
    (report,) = session.warnings()
    assert report.sqlstate == "22023"
    _, properties, body = channel.basic_get("events", auto_ack=True)
    assert body == b"x"
    assert properties.delivery_mode is None
    assert (properties.content_type, properties.reply_to) == ("text/plain", "r")


def test_two_things_wrong_under_warn(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    session.set(on_failure="warn")
    assert not session.value(
        "SELECT amqp.publish(%s, 'events', 'key', 'x', 3, priority => 256)", broker_id
    )
    assert "priority" in session.warnings()[-1].message
    assert take(channel, "events") == []


def test_warning_once_in_a_transaction(session: Session, broker_id: int) -> None:
    session.set(on_failure="warn")
    count = """SELECT count(*) FILTER (WHERE amqp.publish(%s, 'no', 'key', 'x'))
               FROM generate_series(1, 50)"""
    for _ in range(2):
        assert session.value(count, broker_id) == 0
        first, rest = session.warnings()
        assert first.sqlstate == "42704"
        assert rest.message.startswith("amqp: 49 more calls failed: ")


def test_warn_lets_the_transaction_go_on(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    session.run("CREATE TEMP TABLE t (n int)")
    with session.transaction():
        session.run("SET LOCAL amqp.on_failure = 'warn'")
        session.run("INSERT INTO t VALUES (1)")
        session.run(call(broker_id="4711"))
        session.publish(broker_id, "events", [1])
    assert session.value("SELECT n FROM t") == 1
    assert numbers_in(channel, "events", 1) == [1]
    # SET LOCAL is over.
    assert session.error(call(broker_id="4711")).sqlstate == "42704"


# ---- Connections ----


def connect_error(session: Session, url: str) -> Report:
    """Return how a first publish to this URL fails, and how ping() and warn say the same."""
    broker_id = session.add_broker(url)
    publish = "SELECT amqp.publish(%s, 'events', 'key', 'x')"
    report: Report = Call(lambda: session.error(publish, broker_id)).result()
    ping: Report = Call(lambda: session.error("SELECT amqp.ping(%s)", broker_id)).result()
    assert (ping.sqlstate, ping.message) == (report.sqlstate, report.message)
    session.set(on_failure="warn")
    session.run("SELECT amqp.disconnect(%s)", broker_id)
    assert session.value(publish, broker_id) is False
    (warning,) = session.warnings()
    assert (warning.sqlstate, warning.message) == (report.sqlstate, report.message)
    session.set(on_failure="error")
    assert f"could not connect to broker {broker_id} at " in report.message
    return report


def test_wrong_password(
    session: Session, broker: VHost, broker_id: int, channel: BlockingChannel
) -> None:
    report = connect_error(session, broker.url("guest", SECRET))
    assert report.sqlstate == "28P01"
    assert "ACCESS_REFUSED" in report.message
    assert "password" in report.hint
    session.publish(broker_id, "events", [1])
    assert numbers_in(channel, "events", 1) == [1]


def test_unknown_user(session: Session, broker: VHost) -> None:
    assert connect_error(session, broker.url("nobody", SECRET)).sqlstate == "28P01"


def test_unknown_vhost(session: Session, broker: VHost) -> None:
    report = connect_error(session, broker.url().replace(broker.vhost, "no-such-vhost"))
    assert report.sqlstate == "08004"
    assert "no-such-vhost" in report.message
    assert "vhost" in report.hint


def test_forbidden_vhost(session: Session, broker: VHost, management: Management) -> None:
    user = f"outsider-{broker.vhost}"
    management.create_user(user, SECRET)
    try:
        report = connect_error(session, broker.url(user, SECRET))
    finally:
        management.delete_user(user)
    assert report.sqlstate == "08004"
    assert broker.vhost in report.message


def test_refused(session: Session) -> None:
    port = free_port()
    report = connect_error(session, f"amqp://guest:{SECRET.replace('$', '%24')}@127.0.0.1:{port}")
    assert report.sqlstate == "08001"
    assert f'"127.0.0.1:{port}": connection refused' in report.message
    assert "host and port" in report.hint
    assert "No attempt was made" not in report.hint
    broker_id = session.value("SELECT broker_id FROM amqp.broker")
    again = session.error("SELECT amqp.publish(%s, 'amq.topic', 'key', 'x')", broker_id)
    assert again.message == report.message
    assert "No attempt was made now" in again.hint
    assert f"SELECT amqp.ping({broker_id})" in again.hint


def test_host_not_found(session: Session) -> None:
    report = connect_error(session, "amqp://host.invalid")
    assert report.sqlstate == "08001"
    assert "host name not found" in report.message


@pytest.mark.parametrize("host", ["a" * 64, "a..b", ".", "é" * 70, "::1::", "-"])
def test_host_that_is_none(session: Session, host: str) -> None:
    broker_id = session.value(
        "INSERT INTO amqp.broker (host) VALUES (%s) RETURNING broker_id", host
    )
    report = session.error("SELECT amqp.publish(%s, 'events', 'key', 'x')", broker_id)
    assert report.sqlstate == "08001"
    assert session.run("SELECT 1") == [(1,)]


def test_no_amqp_server(session: Session) -> None:
    with Peer(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as peer:
        report = connect_error(session, peer.url)
    assert report.sqlstate == "08P01"
    assert "HTTP/1.1" in report.message
    assert "5672" in report.hint


def test_postgresql_is_no_amqp_server(session: Session, postgres: PostgreSQL) -> None:
    session.set(connect_timeout="300ms")
    report = connect_error(session, f"amqp://127.0.0.1:{postgres.port}")
    assert report.sqlstate[:2] == "08"


def test_silent_server(session: Session, proxy: CuttingProxy, broker: VHost) -> None:
    proxy.welcome(Welcome.STALL)
    session.set(connect_timeout="100ms")
    report = connect_error(session, broker.url(port=proxy.port))
    assert report.sqlstate == "08001"
    assert "does not answer" in report.message


# ---- add_broker() and the constraints of amqp.broker ----


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "http://host",
        "host:5672",
        "amqp://",
        "amqp://host:0",
        "amqp://host:65536",
        "amqp://host:port",
        "amqp://host,",
        "amqp://host/a/b",
        "amqp://[::1",
        "amqp://host?x=1",
        "amqp://user:%ff@host",
        "amqp://ho%00st",
    ],
)
def test_invalid_uri(session: Session, uri: str) -> None:
    with_secret = uri.replace("amqp://", f"amqp://user:{SECRET}@", 1) if "user" not in uri else uri
    report = session.error("SELECT amqp.add_broker(%s)", with_secret)
    assert report.sqlstate == "22023"
    assert "invalid AMQP URI" in report.message
    assert "amqp://user:password@host:port/vhost" in report.hint
    assert SECRET not in str(report)
    assert session.run("SELECT FROM amqp.broker") == []


def test_null_uri(session: Session) -> None:
    assert session.error("SELECT amqp.add_broker(NULL)").sqlstate == "22004"


@pytest.mark.parametrize(
    "row",
    [
        {"host": ""},
        {"host": None},
        {"host": "amqp://rabbit.example"},
        {"host": "rabbit.example:5672"},
        {"host": "user@rabbit.example"},
        {"host": "rabbit.example/vhost"},
        {"host": " rabbit.example"},
        {"host": "[::1]"},
        {"host": "h", "port": 0},
        {"host": "h", "port": 65536},
        {"host": "h", "vhost": ""},
        {"host": "h", "vhost": "é" * 128},
        {"host": "h", "ssl": True, "ssl_key": "/key"},
        {"host": "h", "ssl_cacert": "/ca"},
        {"host": "h", "ssl_cert": "/cert", "ssl_key": "/key"},
    ],
    ids=str,
)
def test_row_that_cannot_work_is_refused(session: Session, row: dict[str, object]) -> None:
    query = sql.SQL("INSERT INTO amqp.broker ({}) VALUES ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join([sql.Placeholder()] * len(row)),
    )
    assert session.error(query, *row.values()).sqlstate[:2] == "23"


@pytest.mark.parametrize(
    "host", ["rabbit_1", "::1", "fe80::1%eth0", "2001:db8::5", "bücher.example"]
)
def test_a_host_may_be_a_name_or_an_address(session: Session, host: str) -> None:
    session.run("INSERT INTO amqp.broker (host) VALUES (%s)", host)


# ---- Settings ----


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("on_failure", ["x", "off", "error warn"]),
        ("publisher_confirms", ["x", "2", "o", "onn"]),
        ("capture", ["x"]),
        ("confirm_timeout", ["abc", "0", "-1", "0 s", "1 y", "1e3", "25d", "٣", "nan", "inf"]),
        ("connect_timeout", ["abc", "0"]),
    ],
)
def test_setting_that_makes_no_sense(
    session: Session, broker_id: int, channel: BlockingChannel, name: str, values: list[str]
) -> None:
    for value in values:
        session.set(**{name: value})
        report = session.error("SELECT amqp.publish(%s, 'events', 'key', 'bad')", broker_id)
        assert report.sqlstate == "22023"
        assert report.message == f'amqp: invalid value for parameter "amqp.{name}": "{value}"'
        assert report.hint
    session.run(f"RESET amqp.{name}")
    session.publish(broker_id, "events", [1])
    assert session.warnings() == []
    assert take(channel, "events", 1) == ["1"]


def test_setting_that_makes_no_sense_at_commit_is_a_warning(
    session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    with session.transaction():
        session.publish(broker_id, "events", [1])
        # So many that the broker takes a while: the timeout is of interest then.
        session.publish(broker_id, "events", range(2, 1001))
        session.set(confirm_timeout="abc", publisher_confirms="x")
    reports = session.warnings()
    assert {report.sqlstate for report in reports} == {"22023"}
    assert len(reports) == 2
    assert numbers_in(channel, "events", 1000) == list(range(1, 1001))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("on_failure", ["error", "warn", "WARN", ""]),
        ("publisher_confirms", ["on", "off", "true", "no", "1", "FALSE", ""]),
        (
            "confirm_timeout",
            ["500", "500ms", "2s", "2 s", "1.5min", "1h", "1d", "20d", "900000us", ""],
        ),
        ("connect_timeout", ["5s", "5000"]),
    ],
)
def test_setting_that_makes_sense(
    session: Session, broker_id: int, channel: BlockingChannel, name: str, values: list[str]
) -> None:
    for value in values:
        session.set(**{name: value})
        session.publish(broker_id, "events", [1])
        assert numbers_in(channel, "events", 1) == [1]
    assert session.warnings() == []


def test_settings_of_roles_and_databases(
    database: str, session: Session, broker_id: int, channel: BlockingChannel
) -> None:
    name = sql.Identifier(str(conninfo_to_dict(database)["dbname"]))
    role = sql.Identifier(f"settled_{name.as_string(None).strip(chr(34))}")
    alter_database = sql.SQL("ALTER DATABASE {} SET amqp.on_failure = 'warn'").format(name)
    session.run(alter_database)
    publish = "SELECT amqp.publish(%s, 'nowhere', 'key', 'x')"
    # Sessions that are there already go on as they were.
    assert session.error(publish, broker_id).sqlstate == "42704"
    with open_session(database) as other:
        assert other.value(publish, broker_id) is False
        assert len(other.warnings()) == 1
        other.run("SET amqp.on_failure = error")
        assert other.error(publish, broker_id).sqlstate == "42704"
    session.run(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        session.run(sql.SQL("GRANT USAGE ON SCHEMA amqp TO {}").format(role))
        session.run(sql.SQL("ALTER ROLE {} SET amqp.on_failure = 'error'").format(role))
        dsn = database.replace("user=postgres", f"user={role.as_string(None).strip(chr(34))}")
        with open_session(dsn) as other:
            assert other.error(publish, broker_id).sqlstate == "42704"
    finally:
        session.run(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
        session.run(sql.SQL("ALTER DATABASE {} RESET ALL").format(name))


# ---- Secrets ----


def test_no_password_is_ever_shown(
    postgres: PostgreSQL,
    session: Session,
    broker: VHost,
    management: Management,
    proxy: CuttingProxy,
    channel: BlockingChannel,
) -> None:
    declare(channel)
    declare(channel, "bad")
    user = f"careful-{broker.vhost}"
    management.create_user(user, SECRET)
    management.grant(broker.vhost, user)
    shown: list[object] = []
    publish = "SELECT amqp.publish(%s, %s, 'key', 'x', mandatory => true)"
    good = broker.url(user, SECRET, port=proxy.port)
    try:
        with Peer(saying(b"nonsense")) as peer:
            urls = [
                broker.url("guest", SECRET),
                good.replace(broker.vhost, "nowhere"),
                good.replace("127.0.0.1", "host.invalid"),
                good.replace(str(proxy.port), str(free_port())),
                good.replace("amqp:", "amqps:"),
                good.replace(str(proxy.port), str(peer.port)),
                good.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1:2,127.0.0.1"),
            ]
            for url in urls[:-1]:
                broker_id = session.add_broker(url)
                for function in ("publish", "autonomous_publish"):
                    shown.append(
                        session.error(publish.replace("publish", function), broker_id, "x")
                    )
                shown.append(session.error("SELECT amqp.ping(%s)", broker_id))
                shown.append(session.error("SELECT amqp.queue_declare(%s, 'q')", broker_id))
                session.set(on_failure="warn")
                session.run(publish, broker_id, "x")
                session.set(on_failure="error")
        broker_id = session.add_broker(good)
        session.set(confirm_timeout="100ms")
        with session.transaction():
            session.run(publish, broker_id, "events")
            session.run(publish, broker_id, "bad")
            channel.queue_unbind("events", "events", "#")
            channel.exchange_delete("bad")
        with session.transaction():
            session.run(publish, broker_id, "events")
            proxy.refuse()
        shown.append(session.error(publish, broker_id, "events"))
        shown.append(session.run("SELECT * FROM amqp.status()"))
        shown.append(session.run("SELECT * FROM amqp.pending()"))
        shown.append(session.error("SELECT amqp.add_broker(%s)", f"amqp://u:{SECRET}@h/a/b"))
    finally:
        management.delete_user(user)
    assert len(session.reports) >= 9
    assert len(shown) > 20
    assert not any(SECRET in str(one) for one in [*shown, *session.reports])
    assert SECRET not in postgres.log_text()
    # The log was looked at while there was something in it.
    assert "could not connect to broker" in postgres.log_text()
