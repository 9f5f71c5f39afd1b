"""Which hosts of RabbitMQ a login is for, and which broker's row is its own."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Sequence
from typing import Protocol

from pg_amqp_daemon.gateway.hosts import Host
from pg_amqp_daemon.gateway.login import Login
from pg_amqp_daemon.runtime import brokers
from pg_amqp_daemon.runtime.database import Database
from pg_amqp_daemon.runtime.metrics import Metrics
from pg_amqp_daemon.runtime.watcher import Watcher
from pg_amqp_py.wire.address import Address


class Brokers(Protocol):
    """What is known of brokers."""

    def addresses(self, login: Login) -> list[Address]:
        """Where this login goes."""

    def own(self, login: Login) -> int | None:
        """The broker_id of the row that has this very login, if there is one."""

    def hosts(self) -> list[Host]:
        """All hosts."""

    def look(self) -> None:
        """Called now and then."""


class FixedBrokers:
    """The hosts that the command line names, of one broker."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts

    def addresses(self, login: Login) -> list[Address]:
        """Where this login goes."""
        return [
            Address(host.host, host.port, login.vhost, login.user, login.password, host.ssl)
            for host in self._hosts
        ]

    def own(self, _login: Login) -> int | None:
        """There are no rows."""
        return None

    def hosts(self) -> list[Host]:
        """All hosts."""
        return list(self._hosts)

    def look(self) -> None:
        """Nothing changes."""


class BrokerRows:
    """The rows of amqp.broker, as they are, looked at once a second.

    A login goes to the broker whose row it is; else to that with the lowest broker_id among those
    of its virtual host, or else among all.
    """

    def __init__(self, dsn: str, stopping: threading.Event, metrics: Metrics) -> None:
        self._database = Database(dsn, "gateway", " (brokers)")
        self._found: dict[int, list[Address]] = {}
        self._watcher = Watcher(self._database, self._take_over, stopping=stopping, metrics=metrics)
        self._watcher.start()

    def addresses(self, login: Login) -> list[Address]:
        """Where this login goes, with what else the rows say of how to connect."""
        found = self._found
        chosen = self.own(login)
        if chosen is None:
            here = [key for key, rows in found.items() if any(r.vhost == login.vhost for r in rows)]
            chosen = min(here or found, default=None)
        if chosen is None:
            return []
        return [_as(login, row) for row in found[chosen]]

    def own(self, login: Login) -> int | None:
        """The broker_id of the row that has this very login, if there is one."""
        found = [key for key, rows in self._found.items() if all(_is(login, row) for row in rows)]
        return min(found, default=None)

    def hosts(self) -> list[Host]:
        """All hosts."""
        return list(
            {Host(row.host, row.port, row.ssl) for rows in self._found.values() for row in rows}
        )

    def look(self) -> None:
        """Give up a database that does not answer."""
        self._watcher.unblock()

    def _take_over(self) -> None:
        self._found = brokers.addresses_of_brokers(self._database)


def _is(login: Login, row: Address) -> bool:
    """Whether it is the row's login, whose password nobody learns by trying."""
    same = hmac.compare_digest(login.password.encode(), row.password.encode())
    return same and login.user == row.username and login.vhost == row.vhost


def _as(login: Login, row: Address) -> Address:
    return Address(
        row.host,
        row.port,
        login.vhost,
        login.user,
        login.password,
        row.ssl,
        row.ssl_cacert,
        row.ssl_cert,
        row.ssl_key,
        row.ssl_verify_peer,
        row.ssl_verify_hostname,
    )
