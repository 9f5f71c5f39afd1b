"""Logins as time goes by: in the loop itself, where minutes need not be waited for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from pg_amqp_daemon.gateway import lane
from pg_amqp_daemon.gateway.lane import Opener
from pg_amqp_daemon.gateway.login import Login
from pg_amqp_daemon.gateway.logins import Logins
from pg_amqp_daemon.gateway.many import Many, Share
from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.posted import Posted
from pg_amqp_daemon.gateway.problem import Problem
from pg_amqp_daemon.gateway.properties import fields_of
from pg_amqp_daemon.gateway.publisher import Publisher
from pg_amqp_daemon.gateway.tally import Tally
from pg_amqp_py.wire.address import Address
from servers.management import Management
from support.fix_servers import VHost
from support.patience import LIMIT

_LINE = {"exchange": "amq.topic", "routing_key": "foo", "payload": "x"}


class Desk:
    """The logins of a process, and one of them that posts."""

    def __init__(self, broker: VHost, login: Login) -> None:
        port = broker.rabbitmq.amqp_port
        self.login = login
        self.tally = Tally()
        self.opener = Opener("test")
        self.logins = Logins(
            self.opener,
            lambda one: [Address("127.0.0.1", port, one.vhost, one.user, one.password, False)],
            self.tally,
        )

    def publisher(self) -> Publisher:
        """Who publishes for the login."""
        return self.logins.publisher(self.login, "127.0.0.1")

    async def post(self) -> int:
        """The status of a message."""
        told: asyncio.Future[Posted] = asyncio.get_running_loop().create_future()
        message = Message(fields_of("amq.topic", "foo", {}), b"x")
        try:
            self.publisher().post(message, told.set_result)
        except Problem as problem:
            return problem.status
        answer = (await asyncio.wait_for(told, LIMIT)).answer
        return 204 if answer is None else answer.status

    def close(self) -> None:
        """End it."""
        self.logins.close()
        self.opener.end()


@pytest.fixture
def me(broker: VHost, management: Management) -> Iterator[Login]:
    """A user of his own, whose password can be changed."""
    user = f"me-{broker.vhost}"
    management.create_user(user, "old")
    management.grant(broker.vhost, user)
    yield Login(broker.vhost, user, "old")
    management.delete_user(user)


def test_a_login_that_nobody_uses_gives_up_its_connections(broker: VHost, me: Login) -> None:
    async def run() -> None:
        desk = Desk(broker, me)
        assert [await desk.post() for _ in range(2)] == [204, 204]
        count = desk.tally.login(me.vhost, me.user)
        now = time.monotonic()
        desk.logins.tick(now + 55)
        assert desk.publisher().connected
        assert not count.closed
        desk.logins.tick(now + 65)
        assert not desk.logins.publishers
        assert count.closed == count.opened == 2
        assert await desk.post() == 204
        desk.close()

    asyncio.run(run())


def test_a_login_is_looked_at_again_after_some_minutes(
    broker: VHost, me: Login, management: Management
) -> None:
    async def run() -> None:
        desk = Desk(broker, me)
        assert [await desk.post() for _ in range(2)] == [204, 204]
        management.create_user(me.user, "new")
        now = time.monotonic()
        desk.publisher().tick(now + 295)
        assert await desk.post() == 204
        desk.publisher().tick(now + 305)
        assert await desk.post() == 401
        desk.close()

    asyncio.run(run())


def test_a_login_that_never_rests_is_looked_at_again(
    broker: VHost, me: Login, management: Management, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        desk = Desk(broker, me)
        assert [await desk.post() for _ in range(2)] == [204, 204]
        management.create_user(me.user, "new")
        assert await desk.post() == 204
        monkeypatch.setattr(lane, "_BUSY_LOGIN_LASTS", 0.0)
        assert await desk.post() == 401
        desk.close()

    asyncio.run(run())


def test_a_request_that_outlives_its_login_s_connections_goes_on_with_others(
    broker: VHost, me: Login
) -> None:
    async def run() -> None:
        desk = Desk(broker, me)
        sent: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        answers: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        accepted = asyncio.Event()

        async def store(_message: Message, answer: Problem) -> Problem:
            return answer

        async def line(*, more: bool) -> object:
            body = json.dumps(_LINE).encode() + b"\n"
            sent.put_nowait({"type": "http.request", "body": body, "more_body": more})
            answer = await asyncio.wait_for(answers.get(), LIMIT)
            return answer["status"] if "status" in answer else json.loads(answer["body"])

        many = Many(desk.publisher, 1024, sent.get, answers.put, store, accepted.set, Share())
        answering = asyncio.create_task(many.answer(collect=False))
        assert await line(more=True) == 200
        assert accepted.is_set()
        assert json.loads((await answers.get())["body"]) == {"status": 204}
        desk.logins.tick(time.monotonic() + 65)
        assert not desk.logins.publishers
        assert await line(more=False) == {"status": 204}
        # Somebody must look after it.
        assert desk.logins.publishers
        await answering
        desk.close()

    asyncio.run(run())


def test_requests_with_many_lines_have_so_many_under_way_together(
    broker: VHost, me: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Share, "most_lines", 20)
    most = 0

    async def run() -> None:
        nonlocal most
        desk = Desk(broker, me)
        share = Share()
        body = (json.dumps(_LINE).encode() + b"\n") * 50

        async def request() -> int:
            told: list[bytes] = []
            sent: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
            sent.put_nowait({"type": "http.request", "body": body, "more_body": False})

            async def send(event: MutableMapping[str, Any]) -> None:
                nonlocal most
                most = max(most, share.lines)
                told.append(event.get("body", b""))

            async def store(_message: Message, answer: Problem) -> Problem:
                return answer

            many = Many(desk.publisher, 1024, sent.get, send, store, lambda: None, share)
            await asyncio.wait_for(many.answer(collect=False), LIMIT)
            return b"".join(told).count(b'{"status":204}')

        assert await asyncio.gather(*[request() for _ in range(5)]) == [50] * 5
        assert (share.lines, share.bytes) == (0, 0)
        desk.close()

    asyncio.run(run())
    # One of each, however full it is.
    assert 20 <= most < 20 + 5
