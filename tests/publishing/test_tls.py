"""TLS: what is checked, what an error says of it, and that messages flow."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.certificates import Certificates
from servers.postgres import PostgreSQL
from servers.processes import give_to_server_user
from servers.proxy import CuttingProxy, Direction
from servers.rabbitmq import RabbitMQ
from support.calls import Call
from support.fix_servers import VHost
from support.peers import Peer, forwarding, saying
from support.queues import declare, numbers_in, open_channel
from support.sessions import Report, Session
from support.shared import shared_fixtures

SECRET = "s3cr3t-of-the-tls-test"
PUBLISH = "SELECT amqp.publish(%s, 'events', 'key', '1')"


database, broker, session = shared_fixtures()


def tls_row(session: Session, url: str, **columns: object) -> int:
    """Add a broker with these columns of amqp.broker; return its id."""
    broker_id = session.add_broker(url)
    for name, value in columns.items():
        session.run(
            f"UPDATE amqp.broker SET {name} = %s WHERE broker_id = %s",
            str(value) if isinstance(value, Path) else value,
            broker_id,
        )
    return broker_id


@contextmanager
def terminator(
    rabbitmq: RabbitMQ, certificate: Path, key: Path, *, client_ca: Path | None = None
) -> Iterator[Peer]:
    """A TLS server with this certificate in front of the node's plain listener."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    with Peer(forwarding(rabbitmq.amqp_port), tls=context) as peer:
        yield peer


def assert_flows(session: Session, broker_id: int, channel: BlockingChannel) -> None:
    """Messages arrive, and the connection is one by TLS."""
    declare(channel)
    session.publish(broker_id, "events", [1, 2, 3])
    assert numbers_in(channel, "events", 3) == [1, 2, 3]
    assert session.warnings() == []
    assert session.run(
        "SELECT connected, ssl FROM amqp.status() WHERE broker_id = %s", broker_id
    ) == [(True, True)]


def assert_fails(session: Session, broker_id: int, *words: str) -> Report:
    """The call fails with an error that holds these words; the session goes on."""
    error: Report = Call(lambda: session.error(PUBLISH, broker_id)).result()
    assert error.sqlstate == "08001"
    for word in words:
        assert word in error.message.lower()
    assert "amqp.broker" in error.hint or "PEM" in error.hint
    assert session.run("SELECT 1") == [(1,)]
    return error


def test_verified_against_own_authority(
    session: Session, broker: VHost, certificates: Certificates, channel: BlockingChannel
) -> None:
    broker_id = tls_row(session, broker.url(tls=True), ssl_cacert=certificates.ca)
    assert_flows(session, broker_id, channel)


def test_large_message(
    session: Session, broker: VHost, certificates: Certificates, channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id = tls_row(session, broker.url(tls=True), ssl_cacert=certificates.ca)
    body = os.urandom(5_000_000)
    with session.transaction():
        for part in (b"before", body, b"after"):
            session.run("SELECT amqp.publish(%s, 'events', 'key', %s::bytea)", broker_id, part)
    assert session.warnings() == []
    arrived = [channel.basic_get("events", auto_ack=True)[2] for _ in range(3)]
    assert arrived == [b"before", body, b"after"]


def test_many_messages(
    session: Session, broker: VHost, certificates: Certificates, channel: BlockingChannel
) -> None:
    declare(channel)
    broker_id = tls_row(session, broker.url(tls=True), ssl_cacert=certificates.ca)
    numbers = list(range(10_000))
    session.publish(broker_id, "events", numbers)
    assert session.warnings() == []
    assert numbers_in(channel, "events", len(numbers)) == numbers


def test_cut_and_stalled_connections(
    session: Session,
    rabbitmq: RabbitMQ,
    broker: VHost,
    certificates: Certificates,
    channel: BlockingChannel,
) -> None:
    declare(channel)
    assert rabbitmq.amqps_port
    with CuttingProxy(rabbitmq.amqps_port) as proxy:
        url = broker.url(port=proxy.port, tls=True)
        broker_id = tls_row(session, url, ssl_cacert=certificates.ca)
        numbers = list(range(1000))
        session.publish(broker_id, "events", [0])
        for count in (1, 4, 5, 6, 500, 5_000, 20_000):
            with session.transaction():
                session.publish(broker_id, "events", numbers)
                proxy.cut_after(count, Direction.TO_SERVER)
            proxy.pass_all()
            received = numbers_in(channel, "events", len(numbers))
            assert list(dict.fromkeys(received)) == numbers
        assert session.warnings() == []
        # Cut inside the TLS handshake.
        for count in (1, 5, 100, 300):
            session.run("SELECT amqp.disconnect(%s)", broker_id)
            proxy.cut_after(count, Direction.TO_SERVER)
            assert_fails(session, broker_id)
        proxy.pass_all()
        session.run("SELECT amqp.disconnect(%s)", broker_id)
        proxy.stall()
        session.set(connect_timeout="200ms")
        assert_fails(session, broker_id, "tls handshake")


def test_authority_of_somebody_else(
    session: Session, broker: VHost, certificates: Certificates
) -> None:
    broker_id = tls_row(session, broker.url(tls=True), ssl_cacert=certificates.other_ca)
    assert_fails(session, broker_id, "certificate verify failed")


def test_authorities_of_the_system_by_default(session: Session, broker: VHost) -> None:
    broker_id = tls_row(session, broker.url(tls=True))
    assert_fails(session, broker_id, "certificate verify failed")


@pytest.mark.parametrize(
    ("certificate", "words"),
    [("wrong_name", ["certificate verify failed", "127.0.0.1"]), ("expired", ["expired"])],
)
def test_certificate_that_is_not_good(
    session: Session,
    rabbitmq: RabbitMQ,
    broker: VHost,
    certificates: Certificates,
    channel: BlockingChannel,
    certificate: str,
    words: list[str],
) -> None:
    pair = getattr(certificates, certificate), getattr(certificates, f"{certificate}_key")
    with terminator(rabbitmq, *pair) as server:
        url = broker.url(port=server.port, tls=True)
        broker_id = tls_row(session, url, ssl_cacert=certificates.ca)
        assert_fails(session, broker_id, *words)
        # Neither check.
        session.run("UPDATE amqp.broker SET ssl_verify_peer = false")
        assert_flows(session, broker_id, channel)


def test_host_name_check_off(
    session: Session,
    rabbitmq: RabbitMQ,
    broker: VHost,
    certificates: Certificates,
    channel: BlockingChannel,
) -> None:
    with terminator(rabbitmq, certificates.wrong_name, certificates.wrong_name_key) as server:
        url = broker.url(port=server.port, tls=True)
        broker_id = tls_row(session, url, ssl_cacert=certificates.ca, ssl_verify_hostname=False)
        assert_flows(session, broker_id, channel)
        # The certificate must still come from the right authority.
        session.run("UPDATE amqp.broker SET ssl_cacert = %s", str(certificates.other_ca))
        assert_fails(session, broker_id, "certificate verify failed")
    with terminator(rabbitmq, certificates.expired, certificates.expired_key) as server:
        url = broker.url(port=server.port, tls=True)
        broker_id = tls_row(session, url, ssl_cacert=certificates.ca, ssl_verify_hostname=False)
        assert_fails(session, broker_id, "expired")


def test_host_by_name(
    session: Session, broker: VHost, certificates: Certificates, channel: BlockingChannel
) -> None:
    url = broker.url(tls=True).replace("127.0.0.1", "localhost")
    assert_flows(session, tls_row(session, url, ssl_cacert=certificates.ca), channel)


def test_verification_off(session: Session, broker: VHost, channel: BlockingChannel) -> None:
    assert_flows(session, tls_row(session, broker.url(tls=True), ssl_verify_peer=False), channel)


@pytest.mark.slow
def test_client_certificate(
    session: Session, certificates: Certificates, rabbitmq: RabbitMQ
) -> None:
    with RabbitMQ(tls=certificates.tls(verify_client=True)) as strict:
        broker_id = tls_row(session, strict.url(tls=True), ssl_cacert=certificates.ca)
        assert_fails(session, broker_id, "certificate")
        session.run(
            "UPDATE amqp.broker SET ssl_cert = %s, ssl_key = %s",
            str(certificates.client),
            str(certificates.client_key),
        )
        with open_channel(strict.url()) as channel:
            assert_flows(session, broker_id, channel)


def test_client_certificate_and_key_in_one_file(
    session: Session,
    rabbitmq: RabbitMQ,
    broker: VHost,
    certificates: Certificates,
    channel: BlockingChannel,
    pem: Path,
) -> None:
    pem.write_text(certificates.client.read_text() + certificates.client_key.read_text())
    with terminator(
        rabbitmq, certificates.server, certificates.server_key, client_ca=certificates.ca
    ) as server:
        url = broker.url(port=server.port, tls=True)
        broker_id = tls_row(session, url, ssl_cacert=certificates.ca)
        assert_fails(session, broker_id, "certificate")
        session.run("UPDATE amqp.broker SET ssl_cert = %s", str(pem))
        assert_flows(session, broker_id, channel)


# ---- Files ----


@pytest.fixture
def pem(certificates: Certificates) -> Path:
    """A file that the server can read."""
    path = certificates.ca.with_name("own.pem")
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    give_to_server_user(path)
    return path


FILES: Mapping[str, str] = {
    "nonexistent": "no such file",
    "unreadable": "permission denied",
    "empty": "",
    "nonsense": "in pem format",
    "folder": "",
}


@pytest.mark.parametrize("kind", FILES)
def test_bad_authority_file(
    session: Session, broker: VHost, pem: Path, kind: str, tmp_path: Path
) -> None:
    path = bad_file(pem, kind)
    broker_id = tls_row(session, broker.url(tls=True), ssl_cacert=path)
    assert_fails(session, broker_id, "ssl_cacert", path.name, FILES[kind])


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("column", ["ssl_cert", "ssl_key"])
def test_bad_client_file(
    session: Session, broker: VHost, certificates: Certificates, pem: Path, column: str, kind: str
) -> None:
    path = bad_file(pem, kind)
    files: dict[str, Path] = {"ssl_cert": certificates.client, "ssl_key": certificates.client_key}
    files[column] = path
    broker_id = tls_row(session, broker.url(tls=True), ssl_cacert=certificates.ca, **files)
    error = assert_fails(session, broker_id, column, path.name, FILES[kind])
    assert "_ssl.c" not in error.message
    other = ({"ssl_cert", "ssl_key"} - {column}).pop()
    if kind != "nonsense" or column == "ssl_cert":
        assert other not in error.message


def bad_file(pem: Path, kind: str) -> Path:
    """Make of the file one that cannot be loaded, and return its path."""
    if kind == "nonexistent":
        return pem.with_name("nowhere.pem")
    if kind == "folder":
        return pem.parent
    if kind == "nonsense":
        pem.write_text("nonsense\n" * 100)
    elif kind == "unreadable":
        os.chown(pem, os.getuid(), os.getgid())
        pem.chmod(0)
    return pem


def test_key_of_another_certificate(
    session: Session, broker: VHost, certificates: Certificates
) -> None:
    broker_id = tls_row(
        session,
        broker.url(tls=True),
        ssl_cacert=certificates.ca,
        ssl_cert=certificates.client,
        ssl_key=certificates.server_key,
    )
    assert_fails(session, broker_id, "key values mismatch")


def test_encrypted_key_is_refused_and_not_asked_for_at_a_terminal(
    session: Session, broker: VHost, certificates: Certificates, pem: Path
) -> None:
    cryptography = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = cryptography.load_pem_private_key(certificates.client_key.read_bytes(), None)
    pem.write_bytes(
        key.private_bytes(
            cryptography.Encoding.PEM,
            cryptography.PrivateFormat.PKCS8,
            cryptography.BestAvailableEncryption(SECRET.encode()),
        )
    )
    broker_id = tls_row(
        session,
        broker.url(tls=True),
        ssl_cacert=certificates.ca,
        ssl_cert=certificates.client,
        ssl_key=pem,
    )
    assert_fails(session, broker_id, "encrypted")


# ---- The wrong port ----


def test_plain_amqp_to_the_tls_port(session: Session, rabbitmq: RabbitMQ, broker: VHost) -> None:
    broker_id = session.add_broker(broker.url(port=rabbitmq.amqps_port))
    error: Report = Call(lambda: session.error(PUBLISH, broker_id)).result()
    assert error.sqlstate in ("08001", "08P01")
    assert "tls" in error.message.lower()
    assert "ssl" in error.hint


def test_tls_to_the_plain_port(session: Session, rabbitmq: RabbitMQ, broker: VHost) -> None:
    broker_id = session.add_broker(broker.url(port=rabbitmq.amqp_port, tls=True))
    assert_fails(session, broker_id, "tls")


@pytest.mark.parametrize(
    "words",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b"", b"\x15\x03\x01\0\x02\x02\x28"],
    ids=["http", "ssh", "nothing", "alert"],
)
def test_tls_to_something_else(session: Session, words: bytes) -> None:
    with Peer(saying(words)) as peer:
        broker_id = session.add_broker(peer.url.replace("amqp:", "amqps:"))
        assert_fails(session, broker_id)


def test_no_secret_is_shown(
    postgres: PostgreSQL, session: Session, broker: VHost, certificates: Certificates, pem: Path
) -> None:
    """Neither the password nor a line of a key file gets into an error, a warning or the log."""
    key_line = certificates.client_key.read_text().splitlines()[1]
    pem.write_text(certificates.client_key.read_text())
    shown: list[Report] = []
    for columns in (
        {"ssl_cacert": certificates.other_ca},
        {"ssl_cacert": pem},
        {"ssl_cacert": certificates.ca, "ssl_cert": pem},
        {"ssl_cacert": certificates.ca},
    ):
        broker_id = tls_row(session, broker.url(password=SECRET, tls=True), **columns)
        shown.append(session.error(PUBLISH, broker_id))
        session.set(on_failure="warn")
        session.run("SELECT amqp.publish(%s, 'events', 'key', '1')", broker_id)
        session.set(on_failure="error")
    shown += session.reports
    assert len(shown) >= 8
    for secret in (SECRET, key_line):
        assert not any(secret in str(report) for report in shown)
        logged = [line for line in postgres.log_text().splitlines() if secret in line]
        assert logged == []
