"""Publishes what is posted with one login, so that no mistake in a message is others' trouble.

RabbitMQ answers a message that may not be published by closing the channel, and with it come no
confirms of what was under way. So a message goes where others are under way only if the broker has
confirmed one like it within the last second. All others are tried one at a time on a second
connection, where hardly anything can be under way; the broker's answer to a question behind
the message tells that it had nothing against it. What waits for the same answer then goes the
common way. Nothing is asked, and nothing costs anything, where messages flow.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable

import structlog

from pg_amqp_daemon.gateway.lane import Alarm, Lane, Listener, Opener, blocked
from pg_amqp_daemon.gateway.login import Login, unauthorized
from pg_amqp_daemon.gateway.message import Message
from pg_amqp_daemon.gateway.posted import Posted, unpublished
from pg_amqp_daemon.gateway.problem import Problem
from pg_amqp_daemon.gateway.tally import LoginCount, Tally
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.backoff import Backoff
from pg_amqp_py.wire.errors import (
    ACCESS_REFUSED,
    FRAME_ERROR,
    ConnectError,
    ConnectionLostError,
    RejectedError,
)

PATIENCE = 10.0
"""Seconds that somebody waits for a confirm."""
_KNOWN = 1.0
"""Seconds for which what was confirmed says that the next one like it will not be refused."""
_UNHURRIED = 0.25
"""Seconds between two that are tried, at least, if the first is not confirmed."""
_LARGE = 1 << 20
"""Bytes of a body from which on its size may be too much for the broker."""
_MOST_KNOWN = 10_000
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 2.0


class Publisher:
    """One login's messages, in an event loop; `refused` is called if RabbitMQ refuses the login."""

    def __init__(
        self,
        login: Login,
        opener: Opener,
        addresses: Callable[[], list[Address]],
        alarm: Alarm,
        refused: Callable[[Publisher, Problem], object],
        tally: Tally,
    ) -> None:
        self.login = login
        self.used_at = time.monotonic()
        self.accepted = False
        """Whether RabbitMQ has ever let it in."""
        self.closed = False
        """Whether it was given up, so that another one is to be asked for."""
        self.count = LoginCount()
        """Told to others from the moment at which RabbitMQ lets it in."""
        self._tally = tally
        self._alarm = alarm
        self._refused = refused
        to = Listener(self._on_opened, self._on_failed, self._on_lost, self._on_confirmed)
        self._common = Lane(opener, addresses, alarm, to)
        self._trial = Lane(opener, addresses, alarm, to)
        self._lanes = (self._common, self._trial)
        self._known: dict[Hashable, float] = {}
        """What the broker has taken, and when last."""
        self._by_key: set[str] = set()
        """Exchanges where the routing key decides who may publish."""
        self._largest = _LARGE
        self._impersonates = False
        """Whether RabbitMQ lets it publish as somebody else."""
        self._untried: dict[Hashable, deque[Posted]] = {}
        """What waits for an answer, by what it is about."""
        self._trying: tuple[Hashable, Posted] | None = None
        self._tried_at = 0.0
        self._away: str | None = None
        self._in_trouble = False
        """Whether the log says so."""
        self._log = structlog.get_logger().bind(vhost=login.vhost, user=login.user)
        self._backoff = Backoff(_FIRST_BACKOFF, _LONGEST_BACKOFF)

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return any(lane.connected for lane in self._lanes)

    @property
    def under_way(self) -> int:
        """How many messages are waited for, or were and may still be confirmed."""
        return sum(lane.under_way for lane in self._lanes) + sum(map(len, self._untried.values()))

    @property
    def waits(self) -> bool:
        """Whether somebody waits for any of them, or it knows when others may publish again."""
        if self._alarm.reason is not None:
            return True
        return bool(self._untried) or any(lane.waits for lane in self._lanes)

    def post(self, message: Message, told: Callable[[Posted], object]) -> Posted:
        """Publish it; `told` is called when it is known what became of it, perhaps at once."""
        self.used_at = now = time.monotonic()
        posted = Posted(message, now + PATIENCE, told)
        wait = self._backoff.wait(now)
        reason = self._alarm.reason
        if reason is not None:
            posted.settle(blocked(reason))
        elif self._away is not None and wait:
            posted.settle(unpublished(self._away, wait))
        elif self._is_special(message):
            self._try_later(posted, posted)
        else:
            key = self._key(message)
            if now - self._known.get(key, 0.0) < _KNOWN and key not in self._untried:
                self._common.put(posted)
            else:
                self._try_later(key, posted)
        return posted

    def tick(self, now: float) -> None:
        """Give up what is waited for too long. To be called a few times a second."""
        for lane in self._lanes:
            lane.tick(now)
        for key, waiting in list(self._untried.items()):
            for posted in [posted for posted in waiting if posted.deadline <= now]:
                waiting.remove(posted)
                posted.settle(unpublished("RabbitMQ did not take it in time"))
            if not waiting:
                self._untried.pop(key, None)
        self._try_next()

    def close(self, problem: Problem | None = None) -> None:
        """End its connections; what is not written is not published."""
        self.closed = True
        problem = problem or unpublished("the gateway ends")
        untried, self._untried = self._untried, {}
        for lane in self._lanes:
            if lane.connected:
                self.count.closed += 1
            lane.close()
            lane.refuse(problem)
        for waiting in untried.values():
            for posted in waiting:
                posted.settle(problem)

    # -- what is known of messages -----------------------------------------------------------

    def _key(self, message: Message) -> Hashable:
        """What the broker decides by whether it takes a message, if there is nothing special."""
        exchange = message.exchange
        return (exchange, message.routing_key) if exchange in self._by_key else exchange

    def _is_special(self, message: Message) -> bool:
        """Whether the broker may have something against it that it has not against others."""
        if len(message.body) > self._largest:
            return True
        user_id = message.user_id
        return user_id is not None and user_id != self.login.user and not self._impersonates

    def _on_confirmed(self, posted: Posted) -> None:
        self.count.published += 1
        message = posted.message
        known = self._known
        if len(known) >= _MOST_KNOWN:
            known.clear()
        known[self._key(message)] = time.monotonic()
        if self._trying is not None and self._trying[1] is posted:
            self._on_passed(posted)
        elif self._untried:
            self._try_next()

    # -- trying ------------------------------------------------------------------------------

    def _try_later(self, key: Hashable, posted: Posted) -> None:
        self._untried.setdefault(key, deque()).append(posted)
        self._try_next()

    def _try_next(self) -> None:
        """Try one that waits, unless another is being tried whose confirm may come any moment."""
        if self._trying is not None and not self._trying[1].settled:
            return
        key = next(iter(self._untried), None)
        if key is None:
            return
        hurried = time.monotonic() - self._tried_at < _UNHURRIED
        if hurried and self._trial.waits and key not in self._known:
            return
        waiting = self._untried[key]
        posted = waiting.popleft()
        if posted.settled:
            self._drop_if_empty(key)
            self._try_next()
            return
        self._trying, self._tried_at = (key, posted), time.monotonic()
        tell = posted.told

        def told(posted: Posted) -> None:
            tell(posted)
            self._on_tried(posted)

        posted.told = told
        posted.passed = self._on_passed
        self._trial.put(posted)

    def _drop_if_empty(self, key: Hashable) -> None:
        if not self._untried.get(key, True):
            del self._untried[key]

    def _on_passed(self, posted: Posted) -> None:
        """The broker has nothing against it: what is like it can go the common way."""
        if self._trying is None or self._trying[1] is not posted:
            return
        key, _ = self._trying
        self._trying = None
        message = posted.message
        if key is posted:
            self._largest = max(self._largest, len(message.body))
            self._impersonates |= message.user_id not in (None, self.login.user)
        else:
            self._known[key] = time.monotonic()
        for waiting in self._untried.pop(key, ()):
            self._common.put(waiting)
        self._try_next()

    def _on_tried(self, posted: Posted) -> None:
        """It is settled: confirmed, refused, or nobody knows."""
        if self._trying is None or self._trying[1] is not posted:
            return
        key, _ = self._trying
        self._trying = None
        answer = posted.answer
        if answer is not None and answer.status in (403, 404):
            if "topic '" in answer.detail:
                self._by_key.add(posted.message.exchange)
            self._known.pop(key, None)
            # They would meet the same answer, each for the price of a channel.
            for waiting in self._untried.pop(key, ()):
                waiting.settle(answer)
        self._drop_if_empty(key)
        self._try_next()

    # -- what lanes tell -----------------------------------------------------------------------

    def _on_opened(self) -> None:
        if not self.accepted:
            self.accepted = True
            self.count = self._tally.login(self.login.vhost, self.login.user)
        self.count.opened += 1
        self._away = None
        self._backoff.succeeded()
        if self._in_trouble:
            self._in_trouble = False
            self._log.info("connected to broker")

    def _on_lost(self, error: ConnectionLostError) -> None:
        self.count.closed += 1
        self._known.clear()
        self._in_trouble = True
        self._log.warning("connection to broker lost", error=str(error))

    def _on_failed(self, error: ConnectError) -> None:
        if isinstance(error, RejectedError):
            problem = _rejection(error)
            if problem.status != 503:
                self._refused(self, problem)
                self.close(problem)
                return
        else:
            problem = unpublished(f"RabbitMQ is away: {error}")
        away = problem.detail.removeprefix("not published: ")
        if away != self._away:
            self._in_trouble = True
            self._log.warning("broker not reachable", error=away)
        self._away = away
        self._backoff.failed(time.monotonic())
        untried, self._untried = self._untried, {}
        for lane in self._lanes:
            lane.refuse(problem)
        for waiting in untried.values():
            for posted in waiting:
                posted.settle(problem)


def _rejection(error: RejectedError) -> Problem:
    """What RabbitMQ has against a login, by its words."""
    text = str(error)
    if error.code in (ACCESS_REFUSED, FRAME_ERROR):
        return unauthorized(text)
    if "not found" in text:
        return Problem(404, text, field="vhost", whole=True)
    if error.limited or "is down" in text:
        return unpublished(text)
    return Problem(403, text, field="vhost", whole=True)
