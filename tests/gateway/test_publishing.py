"""Messages that are posted arrive as they were, and 204 says that they have."""

from __future__ import annotations

import http.client
import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.gateway import GatewayProcess
from servers.management import Management
from support.fix_servers import VHost
from support.messages import Inbox
from support.posting import NDJSON, Client, basic, path_of


@pytest.fixture
def topic(broker: VHost) -> str:
    """The path of a routing key."""
    return path_of(broker.vhost, "amq.topic", "foo")


@pytest.fixture
def arrived(channel: BlockingChannel) -> Inbox:
    """What came to amq.topic."""
    return Inbox(channel)


# ---- statelessd's ----


def test_the_curl_command_of_statelessd_s_page(
    gateway: GatewayProcess, topic: str, arrived: Inbox
) -> None:
    url = f"http://guest:guest@127.0.0.1:{gateway.port}{topic}"
    for arguments in (["-d", "content-type=text/plain"], ["-d", "content_type=text/plain"]):
        answered = subprocess.run(
            ["curl", "-s", "-w", "%{http_code}", "-d", "body=hi", *arguments, url],
            capture_output=True,
            text=True,
            check=True,
        )
        assert answered.stdout == "204"
    one, other = arrived.drain()
    assert (one.routing_key, one.text, one.properties.content_type) == ("foo", "hi", "text/plain")
    assert (other.text, other.properties.content_type) == ("hi", "text/plain")
    # Nothing that nobody asked for.
    assert one.properties.delivery_mode is None


def test_a_program_in_python_that_posts_an_urlencoded_form(
    gateway: GatewayProcess, topic: str, arrived: Inbox
) -> None:
    payload = {"body": "some text", "content_type": "text/plain", "delivery_mode": 2, "expire": 9}
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway.port}{topic}",
        urllib.parse.urlencode(payload).encode(),
        {"Authorization": basic(("guest", "guest"))},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 204
    # It may have run out by now; that it did is what shows that it was understood.
    assert [one.properties.expiration for one in arrived.drain()] in ([], ["9"])


def test_a_program_in_php_that_posts_an_array_which_is_multipart(
    client: Client, topic: str, arrived: Inbox
) -> None:
    boundary = "------------------------d74496d66958873e"
    values = {"body": "<p>hi</p>", "content_type": "text/html", "headers": '{"a": 1}'}
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in values.items()
    ]
    body = ("".join(parts) + f"--{boundary}--\r\n").encode()
    head = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    assert client.request("POST", topic, body, head).status == 204
    (one,) = arrived.drain()
    assert (one.text, one.properties.content_type) == ("<p>hi</p>", "text/html")
    assert one.properties.headers == {"a": 1}


def test_stats_have_statelessd_s_keys(client: Client, broker: VHost, topic: str) -> None:
    client.form(topic)
    client.form(path_of(broker.vhost, "nowhere", "k"))
    stats = client.get("/stats").json
    assert stats["requests"]["method.POST"] == 2
    assert stats["requests"]["response.204"] == stats["requests"]["response.404"] == 1
    assert stats["requests"]["processing_time"] > 0
    mine = stats["connections"][f"{broker.vhost}:guest"]
    assert (mine["connected"], mine["publishes"], mine["queue_size"]) == (True, 1, 0)
    assert mine["connections"]["opened"] == mine["channels"]["opened"] >= 1
    assert stats["port"] == client.port
    assert stats.keys() == {
        *("host", "port", "requests", "timestamp", "block", "context_switches", "cpu_time"),
        *("memory_usage", "page_faults", "page_size", "signals_received", "swap_outs"),
        "connections",
    }


# ---- Any other body ----


@pytest.mark.parametrize(
    "body", [b"", b"  leading", b"\0\xff\xfe", "ü".encode("latin-1"), b"body=hi", b"x" * 300_000]
)
def test_a_body_of_another_type_arrives_byte_for_byte(
    client: Client, topic: str, arrived: Inbox, body: bytes
) -> None:
    head = {"Content-Type": "application/pdf", "Content-Encoding": "gzip"}
    query = "?delivery_mode=2&message_id=42&mandatory=true&headers=%7B%22a%22%3A1.5%7D"
    answer = client.request("POST", topic + query, body, head)
    assert (answer.status, answer.headers["x-message-id"]) == (204, "42")
    (one,) = arrived.drain()
    assert one.body == body
    properties = one.properties
    assert (properties.content_type, properties.content_encoding) == ("application/pdf", "gzip")
    assert (properties.delivery_mode, properties.message_id) == (2, "42")


def test_a_body_in_chunks_arrives_whole(client: Client, topic: str, arrived: Inbox) -> None:
    pieces = [b"a" * 100_000, b"b", b"c" * 70_000]
    assert client.request("POST", topic, pieces).status == 204
    assert arrived.drain()[0].body == b"".join(pieces)


def test_every_percent_encoded_byte_is_a_part_of_its_name(
    client: Client, broker: VHost, channel: BlockingChannel, management: Management
) -> None:
    names = " a/b%2F?#&+ü\x01"
    channel.exchange_declare(names, "fanout")
    inbox = Inbox(channel, names, "")
    assert client.form(path_of(broker.vhost, names, names)).status == 204
    (one,) = inbox.drain()
    assert (one.exchange, one.routing_key) == (names, names)
    management.create_vhost(names)
    try:
        assert client.form(path_of(names, "amq.topic", "k")).status == 204
    finally:
        management.delete_vhost(names)


def test_the_default_exchange_is_amq_default(
    client: Client, broker: VHost, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel, "")
    assert client.form(path_of(broker.vhost, "amq.default", inbox.queue), mandatory=1).status == 204
    managed = {"properties": {}, "routing_key": inbox.queue, "payload": "b"}
    path = f"/api/exchanges/{broker.vhost}/amq.default/publish"
    assert client.request("POST", path, json.dumps(managed).encode()).json == {"routed": True}
    answer = client.lines(f"/{broker.vhost}", {**managed, "exchange": "amq.default"})
    assert answer.lines == [{"status": 204}]
    assert inbox.texts() == ["hi", "b", "b"]


def test_an_id_is_given_and_told_and_one_that_no_header_can_hold_is_encoded(
    client: Client, topic: str, arrived: Inbox
) -> None:
    given = client.form(topic).headers["x-message-id"]
    odd = client.form(topic, message_id="ü\r\nX-Evil: 1 %").headers
    assert [one.properties.message_id for one in arrived.drain()] == [given, "ü\r\nX-Evil: 1 %"]
    assert urllib.parse.unquote(odd["x-message-id"]) == "ü\r\nX-Evil: 1 %"
    padded = client.form(topic, message_id=" 4 ").headers
    assert urllib.parse.unquote(padded["x-message-id"]) == " 4 "
    assert "x-evil" not in odd


# ---- Management's ----


def test_management_s_requests_are_answered_as_management_does(
    client: Client, broker: VHost, theirs: Client, arrived: Inbox
) -> None:
    for name, body in {
        "amq.topic": {"properties": {"priority": 3}, "routing_key": "a", "payload": "1"},
        "amq.fanout": {"properties": {}, "routing_key": "a", "payload": "1"},
    }.items():
        path = path_of("api", "exchanges", broker.vhost, name, "publish")
        sent = json.dumps({**body, "payload_encoding": "string"}).encode()
        ours, known = (one.request("POST", path, sent) for one in (client, theirs))
        assert (
            (ours.status, ours.json)
            == (known.status, known.json)
            == (200, {"routed": name == "amq.topic"})
        )
    assert [(one.text, one.properties.priority) for one in arrived.drain()] == [("1", 3)] * 2
    path = path_of("api", "exchanges", broker.vhost, "amq.topic", "publish")
    ours, known = (one.request("POST", path, b"{") for one in (client, theirs))
    assert ours.status == known.status == 400
    assert ours.json["error"] == known.json["error"] == "bad_request"
    assert ours.json["reason"]


@pytest.fixture
def theirs(broker: VHost) -> Iterator[Client]:
    """A client of management itself."""
    client = Client(broker.rabbitmq.management_port)
    yield client
    client.close()


# ---- Many ----


def test_each_of_many_lines_is_answered_in_order(
    client: Client, broker: VHost, arrived: Inbox
) -> None:
    good = {"exchange": "amq.topic", "routing_key": "a", "payload": "1"}
    answer = client.lines(
        f"/{broker.vhost}",
        {**good, "properties": {"message_id": "first"}},
        {**good, "exchange": "nowhere", "properties": {"message_id": "second"}},
        "no JSON",
        "",
        {**good, "exchange": "amq.fanout", "mandatory": True, "payload": "x"},
        {**good, "exchange": "amq.fanout", "payload": "lost, which nobody minds"},
        {**good, "properties": {"priority": 300}},
        {**good, "payload": "2"},
    )
    assert (answer.status, answer.headers["content-type"]) == (200, NDJSON)
    found = answer.lines
    assert [one["status"] for one in found] == [204, 404, 400, 422, 204, 400, 204]
    assert found[0] == {"status": 204}
    assert found[1]["message_id"] == "second"
    assert "nowhere" in found[1]["detail"]
    assert "NO_ROUTE" in found[3]["detail"]
    assert found[5]["field"] == "priority"
    assert arrived.texts() == ["1", "2"]


def test_lines_are_answered_while_others_are_still_to_come(client: Client, broker: VHost) -> None:
    line = json.dumps({"exchange": "amq.topic", "routing_key": "a", "payload": "x"}) + "\n"
    connection = http.client.HTTPConnection("127.0.0.1", client.port)
    connection.putrequest("POST", f"/{broker.vhost}")
    for name, value in {
        "Authorization": basic(("guest", "guest")),
        "Content-Type": NDJSON,
        "Transfer-Encoding": "chunked",
    }.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"%x\r\n%b\r\n" % (len(line), line.encode()))
    with connection.getresponse() as answer:
        assert answer.readline() == b'{"status":204}\n'
        connection.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(line), line.encode()))
        assert answer.read() == b'{"status":204}\n'
    connection.close()


def test_thousands_of_lines_arrive_in_order(client: Client, broker: VHost, arrived: Inbox) -> None:
    lines = [
        {"exchange": "amq.topic", "routing_key": "a", "payload": str(number)}
        for number in range(5000)
    ]
    answer = client.lines(f"/{broker.vhost}", *lines)
    assert answer.body == b'{"status":204}\n' * 5000
    assert arrived.texts() == [str(number) for number in range(5000)]


def test_many_with_a_wrong_login_are_answered_once(client: Client, broker: VHost) -> None:
    line = {"exchange": "amq.topic", "routing_key": "a", "payload": "x"}
    assert client.lines(f"/{broker.vhost}", line, line, login=("guest", "x")).status == 401
    assert client.lines("/no-such-vhost", line, line).status == 404
    assert client.request("POST", f"/{broker.vhost}", b"x").status == 415


def test_a_client_of_http_1_0_gets_all_answers_at_once(client: Client, broker: VHost) -> None:
    line = json.dumps({"exchange": "amq.topic", "routing_key": "a", "payload": "x"})
    answered = subprocess.run(
        [
            *("curl", "-s", "-i", "-0", "-u", "guest:guest", "-H", f"Content-Type: {NDJSON}"),
            *("--data-binary", f"{line}\n{line}\n", f"127.0.0.1:{client.port}/{broker.vhost}"),
        ],
        capture_output=True,
        check=True,
    )
    head, _, body = answered.stdout.partition(b"\r\n\r\n")
    assert body == b'{"status":204}\n' * 2
    assert b"content-length: 30" in head
