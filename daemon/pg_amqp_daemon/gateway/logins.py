"""Who publishes: the logins in use, and those that RabbitMQ has refused."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable

from pg_amqp_daemon.gateway.lane import Alarm, Opener
from pg_amqp_daemon.gateway.login import Login
from pg_amqp_daemon.gateway.posted import unpublished
from pg_amqp_daemon.gateway.problem import Problem, retry_after
from pg_amqp_daemon.gateway.publisher import Publisher
from pg_amqp_daemon.gateway.tally import Tally
from pg_amqp_py.wire.address import Address

MOST_LOGINS = 256
_IDLE = 60.0
"""Seconds after which a login that nobody uses gives up its connections."""
_REMEMBERED = {401: 10.0}
_BRIEFLY = 2.0
"""Seconds for which RabbitMQ is not asked again about a login that it has refused."""
_MOST_REMEMBERED = 10_000
MOST_WRONG = 10
"""Wrong passwords from one address within a period; one process counts for itself."""
PERIOD = 60.0
_AT_ONCE = 32
"""Logins that nobody knows yet, from an address where no password was wrong."""


class Logins:
    """The publishers of a process, each for one login."""

    def __init__(
        self, opener: Opener, addresses: Callable[[Login], list[Address]], tally: Tally
    ) -> None:
        self._tally = tally
        self._opener = opener
        self._addresses = addresses
        self.publishers: dict[bytes, Publisher] = {}
        """By their logins' digests."""
        self._alarms: dict[frozenset[tuple[str, int]], Alarm] = {}
        """By the hosts of a broker."""
        self._refused: dict[bytes, tuple[float, Problem]] = {}
        """What RabbitMQ has said, and until when that counts."""
        self._wrong: dict[str, list[float]] = {}
        """When wrong passwords came, by address."""
        self._asked_from: dict[bytes, str] = {}
        """The addresses that logins came from which nobody knows yet."""

    def publisher(self, login: Login, address: str | None) -> Publisher:
        """Who publishes for this login. Raises Problem."""
        digest = login.digest
        found = self.publishers.get(digest)
        if found is not None:
            return found
        return self._admit(login, digest, _network(address))

    def knows(self, login: Login) -> bool:
        """Whether it is in use, and RabbitMQ has let it in."""
        found = self.publishers.get(login.digest)
        return found is not None and found.accepted

    def tick(self, now: float) -> None:
        """Give up what is waited for too long, and logins that nobody uses any more."""
        for digest, publisher in list(self.publishers.items()):
            publisher.tick(now)
            if now - publisher.used_at > _IDLE and not publisher.waits:
                del self.publishers[digest]
                self._asked_from.pop(digest, None)
                publisher.close()
        for digest in [digest for digest, (until, _) in self._refused.items() if until <= now]:
            del self._refused[digest]
        for network in [key for key, times in self._wrong.items() if times[-1] <= now - PERIOD]:
            del self._wrong[network]

    def close(self) -> None:
        """End all connections."""
        for publisher in self.publishers.values():
            publisher.close()

    def _admit(self, login: Login, digest: bytes, network: str) -> Publisher:
        now = time.monotonic()
        self._check_rate(network, now)
        until, problem = self._refused.get(digest, (0.0, None))
        if problem is not None and until > now:
            if problem.status == 401:
                self._count_wrong(network, now)
            raise problem.again()
        if len(self.publishers) >= MOST_LOGINS and not self._make_room():
            raise unpublished("too many logins are in use", 5)
        hosts = frozenset((address.host, address.port) for address in self._addresses(login))
        publisher = Publisher(
            login,
            self._opener,
            lambda: self._addresses(login),
            self._alarms.setdefault(hosts, Alarm()),
            self._on_refused,
            self._tally,
        )
        self.publishers[digest] = publisher
        self._asked_from[digest] = network
        return publisher

    def _check_rate(self, network: str, now: float) -> None:
        """Raises Problem if too many wrong passwords have come, or may have, from there."""
        recent = [at for at in self._wrong.get(network, ()) if at > now - PERIOD]
        unknown = sum(
            origin == network and not publisher.accepted
            for digest, publisher in self.publishers.items()
            if (origin := self._asked_from.get(digest)) is not None
        )
        if len(recent) + unknown >= (MOST_WRONG if recent else _AT_ONCE):
            wait = recent[0] + PERIOD - now if recent else 1.0
            raise Problem(429, "too many wrong passwords", headers=retry_after(wait), whole=True)

    def _count_wrong(self, network: str, now: float) -> None:
        if network not in self._wrong and len(self._wrong) >= _MOST_REMEMBERED:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[network] = [*self._wrong.get(network, ()), now][-MOST_WRONG:]

    def _on_refused(self, publisher: Publisher, problem: Problem) -> None:
        digest = publisher.login.digest
        now = time.monotonic()
        if self.publishers.get(digest) is publisher:
            del self.publishers[digest]
        if len(self._refused) < _MOST_REMEMBERED:
            until = now + _REMEMBERED.get(problem.status, _BRIEFLY)
            self._refused[digest] = until, problem.again()
        network = self._asked_from.pop(digest, None)
        if problem.status == 401 and network is not None:
            self._count_wrong(network, now)

    def _make_room(self) -> bool:
        """Give up the login that was not used for the longest time, if nobody waits for it."""
        idle = [
            (publisher.used_at, digest)
            for digest, publisher in self.publishers.items()
            if not publisher.waits
        ]
        if not idle:
            return False
        _, digest = min(idle)
        self._asked_from.pop(digest, None)
        self.publishers.pop(digest).close()
        return True


def _network(address: str | None) -> str:
    """What counts as one place: an IPv4 address, or all that one host has in IPv6."""
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return address or ""
    if found.version == 4:
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))
