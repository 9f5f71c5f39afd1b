"""What an InfluxDB is sent, and what its answers mean: some that no real one gives on demand.

That of version 2 is tested here alone.
"""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from email.utils import formatdate
from urllib.parse import parse_qs, urlsplit

import pytest

from pg_amqp_daemon.consume.influxdb import client as client_module
from pg_amqp_daemon.consume.influxdb.client import InfluxDB, Row, Unavailable
from servers.certificates import Certificates
from servers.processes import free_port
from support.http_answers import Answer, Answers, answering
from support.patience import LIMIT

LINES = [b"m v=%d %d" % (i, i) for i in range(8)]


@pytest.fixture
def peer() -> Iterator[Answers]:
    with answering() as answers:
        yield answers


@pytest.fixture
def influxdb_of_1(peer: Answers) -> Iterator[InfluxDB]:
    with closing(InfluxDB(Row(f"http://127.0.0.1:{peer.port}", database="d"))) as influxdb:
        yield influxdb


def write(row: Row) -> None:
    """Write all lines as the row says."""
    with closing(InfluxDB(row)) as influxdb:
        assert influxdb.write(LINES) == []


def unavailable(influxdb: InfluxDB) -> Unavailable:
    with pytest.raises(Unavailable) as raised:
        influxdb.write(LINES)
    return raised.value


def sent(peer: Answers) -> list[list[bytes]]:
    return [request.body.splitlines() for request in peer.requests]


def test_version_1_is_sent_a_database_and_a_login(peer: Answers) -> None:
    row = Row(
        f"http://127.0.0.1:{peer.port}/behind/proxy/",
        database="d&b",
        retention_policy="a week",
        username="üser",
        password="pass:word",
    )
    write(row)
    (request,) = peer.requests
    assert urlsplit(request.target).path == "/behind/proxy/write"
    assert parse_qs(urlsplit(request.target).query) == {
        "db": ["d&b"],
        "rp": ["a week"],
        "precision": ["ns"],
    }
    assert request.headers["Authorization"] == "Basic w7xzZXI6cGFzczp3b3Jk"
    assert request.body == b"\n".join(LINES)


def test_version_2_is_sent_an_organisation_a_bucket_and_a_token(peer: Answers) -> None:
    row = Row(f"http://127.0.0.1:{peer.port}", "v2", org="my org", bucket="b/1", token="t0k=")
    with closing(InfluxDB(row)) as influxdb:
        influxdb.check()
        influxdb.write(LINES)
    for request in peer.requests:
        assert urlsplit(request.target).path == "/api/v2/write"
        assert parse_qs(urlsplit(request.target).query) == {
            "org": ["my org"],
            "bucket": ["b/1"],
            "precision": ["ns"],
        }
        assert request.headers["Authorization"] == "Token t0k="
    assert peer.requests[1].body == b"\n".join(LINES)


def test_a_login_may_stand_in_the_url(peer: Answers) -> None:
    write(Row(f"http://u%40:p%2F@127.0.0.1:{peer.port}", database="d"))
    assert peer.requests[0].headers["Authorization"] == "Basic dUA6cC8="
    assert "p%2F" not in peer.requests[0].target


def test_what_is_large_is_compressed(peer: Answers, influxdb_of_1: InfluxDB) -> None:
    influxdb_of_1.write(LINES)
    influxdb_of_1.write(LINES * 100)
    small, large = peer.requests
    assert "Content-Encoding" not in small.headers
    assert large.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(large.body).splitlines() == LINES * 100


def test_the_connection_is_kept(peer: Answers, influxdb_of_1: InfluxDB) -> None:
    influxdb_of_1.check()
    for _ in range(5):
        assert influxdb_of_1.write(LINES) == []
    peer.answers = [Answer(400, "no"), Answer(204), *[Answer(204)] * 2]
    assert influxdb_of_1.write(LINES) == []
    assert peer.connections == 1


def test_nothing_is_sent_for_no_lines(peer: Answers, influxdb_of_1: InfluxDB) -> None:
    assert influxdb_of_1.write([]) == []
    assert not peer.requests


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (401, '{"error":"authorization failed"}', "authorization failed"),
        (403, '{"code":"forbidden","message":"insufficient permissions"}', "insufficient"),
        (404, '{"error":"database not found: \\"d\\""}', 'database not found: "d"'),
        (404, "404 page not found\n", "404 page not found"),
        (429, "", "Too Many Requests"),
        (500, '{"error":"timeout"}', "timeout"),
        (503, '{"error":1}', "1"),
        (502, "<html>Bad Gateway</html>", "<html>"),
        (301, "", "Moved Permanently"),
        # Not what says that something was written.
        (200, "welcome", "welcome"),
    ],
)
def test_where_no_line_is_at_fault_all_is_kept(
    peer: Answers, influxdb_of_1: InfluxDB, status: int, text: str, words: str
) -> None:
    peer.answers = [Answer(status, text)] * 2
    for call in (lambda: influxdb_of_1.write(LINES), influxdb_of_1.check):
        with pytest.raises(Unavailable) as raised:
            call()
        assert f"InfluxDB at 127.0.0.1:{peer.port} answers {status}: {words}" in str(raised.value)
        assert raised.value.retry_after is None
    assert len(peer.requests) == 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), (" 0 ", 0), ("1000000", 3600), ("-5", None), ("soon", None), ("", None)],
)
def test_it_is_heard_how_long_to_wait(
    peer: Answers, influxdb_of_1: InfluxDB, header: str, seconds: float | None
) -> None:
    peer.answers = [Answer(429, "", {"Retry-After": header})]
    assert unavailable(influxdb_of_1).retry_after == seconds


def test_it_is_heard_until_when_to_wait(peer: Answers, influxdb_of_1: InfluxDB) -> None:
    peer.answers = [
        Answer(503, "", {"Retry-After": formatdate(time.time() + 2000, usegmt=True)}),
        Answer(503, "", {"Retry-After": formatdate(time.time() - 2000, usegmt=True)}),
    ]
    later = unavailable(influxdb_of_1).retry_after
    assert later is not None
    assert 1000 < later <= 2000
    assert unavailable(influxdb_of_1).retry_after == 0


@pytest.mark.parametrize(
    ("status", "words"),
    [(400, "partial write"), (422, "partial write"), (500, "a field type conflict")],
)
def test_what_is_refused_is_written_in_halves_until_the_line_is_found(
    peer: Answers, influxdb_of_1: InfluxDB, status: int, words: str
) -> None:
    no = Answer(status, f'{{"message":"{words}"}}')
    yes = Answer(204)
    # All; nothing; 0-3; 4-7; 4-5; 4; 5; 6-7.
    peer.answers = [no, yes, yes, no, no, yes, no, yes]
    ((position, fault),) = influxdb_of_1.write(LINES)
    assert position == 5
    assert str(fault) == f"InfluxDB: {words}"
    assert fault.sqlstate == "22000"
    wholly = [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]
    assert sent(peer)[2:] == [[LINES[i] for i in part] for part in wholly]
    # What is written is what a whole request said of.
    assert not peer.answers


def test_where_nothing_can_be_written_no_line_is_at_fault(
    peer: Answers, influxdb_of_1: InfluxDB
) -> None:
    no = Answer(400, '{"error":"database is required"}')
    peer.answers = [no, no]
    assert "answers 400: database is required" in str(unavailable(influxdb_of_1))
    # Nor would the second request have written anything.
    assert all(line.startswith(b"#") for line in sent(peer)[1])


def test_one_that_goes_away_while_it_is_searched_leaves_all_to_be_written_again(
    peer: Answers, influxdb_of_1: InfluxDB
) -> None:
    peer.answers = [Answer(400, "no"), Answer(204), Answer(204), Answer(503, "busy")]
    assert "busy" in str(unavailable(influxdb_of_1))


def test_a_connection_that_was_closed_meanwhile_is_opened_again(
    peer: Answers, influxdb_of_1: InfluxDB
) -> None:
    influxdb_of_1.check()
    peer.answers = [Answer(None)]
    assert influxdb_of_1.write(LINES) == []
    assert sent(peer)[1:] == [LINES, LINES]
    peer.answers = [Answer(204, "", {"Connection": "close"})]
    assert influxdb_of_1.write(LINES) == []
    assert influxdb_of_1.write(LINES) == []


def test_one_that_hangs_up_is_not_asked_for_ever(peer: Answers, influxdb_of_1: InfluxDB) -> None:
    peer.answers = [Answer(None)] * 9
    assert "without response" in str(unavailable(influxdb_of_1))
    assert len(peer.requests) == 1
    peer.answers = [Answer(204), Answer(None), Answer(None), Answer(204)]
    assert influxdb_of_1.write(LINES) == []
    assert "without response" in str(unavailable(influxdb_of_1))
    assert len(peer.answers) == 1


def test_a_long_answer_is_cut(peer: Answers, influxdb_of_1: InfluxDB) -> None:
    peer.answers = [Answer(500, "x" * 1_000_000)]
    assert str(unavailable(influxdb_of_1)).endswith("answers 500: " + "x" * 1000)
    assert influxdb_of_1.write(LINES) == []


def test_what_it_says_never_has_what_it_was_given(peer: Answers) -> None:
    row = Row(f"http://127.0.0.1:{peer.port}", "v2", org="o", bucket="b", token="s3cret-token")
    peer.answers = [Answer(500, "you said Token s3cret-token")]
    with closing(InfluxDB(row)) as influxdb:
        assert "you said Token ***" in str(unavailable(influxdb))
    row = Row(f"http://u:s3cret@127.0.0.1:{peer.port}", database="d")
    peer.answers = [Answer(500, "you said Basic dTpzM2NyZXQ=")]
    with closing(InfluxDB(row)) as influxdb:
        assert "you said Basic ***" in str(unavailable(influxdb))


def test_a_row_does_not_show_what_is_secret() -> None:
    row = Row("http://u:s3cret@h", username="u", password="s3cret", token="s3cret")
    assert "s3cret" not in repr(row)
    assert "s3cret" not in str(row)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Row("influx:8086", database="d"), "url: it must be like"),
        (Row("http://", database="d"), "url: it must be like"),
        (Row("ftp://u:s3cret@h", database="d"), "url: it must be like"),
        (Row("http://u:s3c#ret@h", database="d"), "url: "),
        (Row("http://u:s3c/ret@h", database="d"), "url: "),
        (Row("http://u:s3cret@h:99999", database="d"), "url: "),
        (Row("http://u:s3cret@h?db=d", database="d"), "url: it must have no query"),
        (Row("http://u:s3cret@h/a b", database="d"), "url: percent-encode"),
        (Row("http://u:s3cret@hé", database="d"), "url: percent-encode"),
        (Row("http://h"), 'database: api "v1" needs it'),
        (Row("http://h", "v2", bucket="b", token="s3cret"), 'org: api "v2" needs it'),
        (Row("http://h", "v2", org="o", token="s3cret"), 'bucket: api "v2" needs it'),
        (Row("http://h", "v2", org="o", bucket="b"), 'token: api "v2" needs it'),
        (Row("http://h", "v2", org="o", bucket="b", token="s3cret\n"), "token: it must be"),
        (Row("http://h", "v3", database="d"), 'api: "v1" or "v2", not "v3"'),
        (Row("http://h", database="d", username="a:b", password="s3cret"), "username: "),
    ],
)
def test_a_row_that_cannot_be_is_refused_without_its_secrets(row: Row, text: str) -> None:
    with pytest.raises(ValueError, match=text) as raised:
        InfluxDB(row)
    assert "s3c" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


def test_one_that_is_not_there_is_told_with_its_address() -> None:
    port = free_port()
    with pytest.raises(Unavailable, match=f"InfluxDB at 127.0.0.1:{port}: Connection refused"):
        InfluxDB(Row(f"http://127.0.0.1:{port}", database="d")).check()
    for url, address in (
        ("http://nowhere.invalid:8086", "nowhere.invalid:8086"),
        ("http://nowhere.invalid/", "nowhere.invalid:80"),
        ("https://nowhere.invalid", "nowhere.invalid:443"),
    ):
        with pytest.raises(Unavailable, match=rf"InfluxDB at {address}: .*(not known|resolution)"):
            InfluxDB(Row(url, database="d")).check()


@contextmanager
def saying(*answers: bytes) -> Iterator[socket.socket]:
    """What answers so, whatever it is asked, and then nothing more; yields its listener."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for answer in answers:
                    connection.recv(1000)
                    connection.sendall(answer)
                over.wait(LIMIT)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener
        finally:
            over.set()
            thread.join()


def test_what_does_not_speak_http_is_told() -> None:
    with (
        saying(b"SSH-2.0\r\n") as listener,
        pytest.raises(Unavailable, match=r"SSH-2\.0"),
    ):
        write(Row(f"http://127.0.0.1:{listener.getsockname()[1]}", database="d"))


def test_one_that_does_not_answer_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_TIMEOUT", 0.3)
    with saying(b"HTTP/1.1 204 No Content\r\n\r\n") as listener:
        row = Row(f"http://127.0.0.1:{listener.getsockname()[1]}", database="d")
        with closing(InfluxDB(row)) as influxdb:
            influxdb.check()
            assert "no answer within 0.3 s" in str(unavailable(influxdb))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_its_certificate_is_checked(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    with answering((certificates.server, certificates.server_key)) as peer:
        row = Row(f"https://localhost:{peer.port}", database="d")
        write(row)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.other_ca))
        with pytest.raises(Unavailable, match="TLS: unable to get local issuer certificate"):
            InfluxDB(row).check()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca))
    with answering((certificates.wrong_name, certificates.wrong_name_key)) as peer:
        row = Row(f"https://localhost:{peer.port}", database="d")
        with pytest.raises(Unavailable, match="TLS: Hostname mismatch"):
            InfluxDB(row).check()
