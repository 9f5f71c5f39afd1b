"""What RabbitMQ refuses is told in its words, and is nobody else's trouble."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.gateway import GatewayProcess
from servers.management import Management
from servers.processes import wait_for
from support.fix_servers import VHost
from support.messages import Inbox
from support.patience import LIMIT
from support.posting import Client, path_of


@pytest.fixture
def topic(broker: VHost) -> str:
    """The path of a routing key."""
    return path_of(broker.vhost, "amq.topic", "foo")


@pytest.fixture
def me(broker: VHost, management: Management) -> Iterator[tuple[str, str]]:
    """A user with a password that has a colon, who may write to amq.topic alone."""
    login = f"me-{broker.vhost}", "pass:wörd:"
    management.create_user(*login)
    management.grant(broker.vhost, login[0], write="^amq.topic$")
    yield login
    management.delete_user(login[0])


# ---- Logins ----


def test_no_login_is_asked_for(client: Client, topic: str) -> None:
    answer = client.request("POST", topic, b"x", {"Authorization": "Bearer x"})
    assert answer.status == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_wrong_password_after_a_right_one_is_refused(
    client: Client, topic: str, me: tuple[str, str], channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    assert client.form(topic, login=me).status == 204
    answer = client.form(topic, login=(me[0], "pass"), message_id="i")
    assert answer.status == 401
    assert "ACCESS_REFUSED" in answer.json["detail"]
    assert answer.headers["www-authenticate"]
    assert client.form(topic, login=me).status == 204
    assert len(inbox.drain()) == 2


@pytest.mark.parametrize("login", [("guest", "p" * 3495), ("u" * 3495, "guest")])
def test_a_login_that_fits_no_frame_is_not_asked_about(
    client: Client, topic: str, login: tuple[str, str]
) -> None:
    """RabbitMQ would keep whoever asks waiting, and with it others' logins."""
    user, password = login
    answer = client.form(topic, login=(user[1:], password))
    assert "ACCESS_REFUSED" in answer.json["detail"]
    answer = client.form(topic, login=login)
    assert answer.status == 401
    assert "longer" in answer.json["detail"]


def test_a_virtual_host_that_is_not_there_or_not_for_this_login(
    client: Client, topic: str, me: tuple[str, str], management: Management
) -> None:
    answer = client.form("/no-such-vhost/amq.topic/k")
    assert (answer.status, answer.json["field"]) == (404, "vhost")
    answer = client.form("/%2F/amq.topic/k", login=me)
    assert (answer.status, answer.json["field"]) == (403, "vhost")
    assert "refused for user" in answer.json["detail"]
    assert client.form(topic, login=me).status == 204


def test_wrong_passwords_are_tried_a_few_times_and_right_ones_still_pass(
    client: Client, topic: str, me: tuple[str, str], broker: VHost
) -> None:
    assert client.form(topic, login=me).status == 204
    found = [client.form(topic, login=("guest", f"wrong {number}")) for number in range(20)]
    counts = Counter(one.status for one in found)
    assert counts == {401: 10, 429: 10}
    assert 0 < int(found[-1].headers["retry-after"]) <= 60
    # Known ones are nobody's guess.
    assert client.form(topic, login=me).status == 204
    assert client.form(topic).status == 429


def test_the_same_wrong_password_is_not_asked_about_each_time(
    client: Client, topic: str, broker: VHost
) -> None:
    def refusals() -> int:
        return broker.rabbitmq.log_text().count("invalid credentials")

    before = refusals()
    assert [client.form(topic, login=("guest", "no")).status for _ in range(5)] == [401] * 5
    wait_for(lambda: refusals() > before, LIMIT, "RabbitMQ's log")
    assert refusals() == before + 1


# ---- Messages ----


def test_an_exchange_that_is_not_there(client: Client, broker: VHost) -> None:
    answer = client.form(path_of(broker.vhost, "nowhere", "k"), message_id="mine")
    assert answer.status == 404
    assert "no exchange 'nowhere'" in answer.json["detail"]
    assert answer.headers["x-message-id"] == answer.json["message_id"] == "mine"


def test_no_permission_to_write(client: Client, broker: VHost, me: tuple[str, str]) -> None:
    for exchange in "amq.direct", "amq.default":
        answer = client.form(path_of(broker.vhost, exchange, "k"), login=me)
        assert answer.status == 403
        assert "ACCESS_REFUSED" in answer.json["detail"]


def test_a_user_id_that_is_not_the_login(
    client: Client, topic: str, me: tuple[str, str], management: Management
) -> None:
    answer = client.form(topic, login=me, user_id="guest")
    assert answer.status == 403
    assert "user_id property set to 'guest'" in answer.json["detail"]
    assert client.form(topic, login=me, user_id=me[0]).status == 204


def test_who_may_impersonate_others_does(
    client: Client, topic: str, management: Management, channel: BlockingChannel
) -> None:
    management.create_user("proxy-user", "x", tags="impersonator")
    management.grant(topic.split("/")[1], "proxy-user")
    inbox = Inbox(channel)
    for _ in range(3):
        assert client.form(topic, login=("proxy-user", "x"), user_id="somebody").status == 204
    assert {one.properties.user_id for one in inbox.drain()} == {"somebody"}
    management.delete_user("proxy-user")


def test_what_no_queue_takes_comes_back_if_it_is_mandatory(client: Client, topic: str) -> None:
    assert client.form(topic).status == 204
    answer = client.form(topic, mandatory="true")
    assert answer.status == 422
    assert answer.json["detail"] == "NO_ROUTE (312)"


def test_of_messages_with_one_id_only_those_that_come_back_are_refused(
    client: Client, broker: VHost, channel: BlockingChannel
) -> None:
    queue = Inbox(channel, "").queue
    lines = [
        {
            "exchange": "amq.default",
            "routing_key": queue if number % 3 else "no queue",
            "payload": "",
            "mandatory": True,
            "properties": {"message_id": "same"},
        }
        for number in range(30)
    ]
    found = [one["status"] for one in client.lines(f"/{broker.vhost}", *lines).lines]
    assert found == [204 if number % 3 else 422 for number in range(30)]


def test_a_full_queue_rejects(client: Client, broker: VHost, channel: BlockingChannel) -> None:
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare("full", arguments=arguments)
    path = path_of(broker.vhost, "amq.default", "full")
    assert client.form(path).status == 204
    answer = client.form(path)
    assert answer.status == 422
    assert "basic.nack" in answer.json["detail"]


def test_a_message_that_is_too_large_for_the_broker(
    client: Client, topic: str, small_messages: int
) -> None:
    answer = client.request("POST", topic, b"x" * (small_messages + 1))
    assert answer.status == 413
    assert "message size" in answer.json["detail"]
    assert client.form(topic).status == 204


def test_a_topic_that_is_not_for_this_login(
    client: Client, topic: str, broker: VHost, me: tuple[str, str], management: Management
) -> None:
    body = {"exchange": "amq.topic", "write": "^mine", "read": ""}
    management.request("PUT", "topic-permissions", broker.vhost, me[0], body=body)
    mine, others = (path_of(broker.vhost, "amq.topic", key) for key in ("mine.1", "others.1"))
    for _ in range(3):
        answer = client.form(others, login=me)
        assert answer.status == 403
        assert "topic 'others.1'" in answer.json["detail"]
        assert client.form(mine, login=me).status == 204


# ---- Neighbours ----


def test_mistakes_of_some_requests_cost_no_others_their_confirm(
    gateway: GatewayProcess, broker: VHost, topic: str, channel: BlockingChannel
) -> None:
    inbox = Inbox(channel)
    nowhere = path_of(broker.vhost, "nowhere", "k")
    ended = threading.Event()

    def post_well() -> list[int]:
        client = Client(gateway.port)
        found = []
        while not ended.is_set():
            found.append(client.form(topic, delivery_mode=2).status)
        client.close()
        return found

    def post_badly(number: int) -> list[int]:
        client = Client(gateway.port)
        found = []
        for at in range(40):
            found.append(
                client.form(topic, user_id="another").status
                if (number + at) % 2
                else client.form(f"{nowhere}{number}.{at}").status
            )
        client.close()
        return found

    with ThreadPoolExecutor(12) as threads:
        good = [threads.submit(post_well) for _ in range(8)]
        bad = [threads.submit(post_badly, number) for number in range(4)]
        refused = Counter(status for one in bad for status in one.result(LIMIT))
        ended.set()
        confirmed = Counter(status for one in good for status in one.result(LIMIT))
    assert refused == {403: 80, 404: 80}
    assert confirmed.keys() == {204}
    assert len(inbox.drain()) == confirmed[204]


def test_one_login_s_trouble_is_not_another_s(
    gateway: GatewayProcess,
    broker: VHost,
    topic: str,
    me: tuple[str, str],
    channel: BlockingChannel,
) -> None:
    """What one may not do, and all its wrong tries, keep no other waiting."""
    Inbox(channel)
    forbidden = path_of(broker.vhost, "amq.direct", "k")

    def post_badly() -> set[int]:
        client = Client(gateway.port, me)
        found = {client.form(forbidden).status for _ in range(50)}
        client.close()
        return found

    client = Client(gateway.port)
    with ThreadPoolExecutor(4) as threads:
        bad = [threads.submit(post_badly) for _ in range(4)]
        assert {client.form(topic).status for _ in range(200)} == {204}
        assert {status for one in bad for status in one.result(LIMIT)} == {403}
    client.close()
