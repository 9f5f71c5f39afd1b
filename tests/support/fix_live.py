"""Fixtures: the page of examples/live in a browser, on a database and a broker of the tests'."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from selenium import webdriver

from demo.live import DATABASE, EXAMPLE, config, serve
from servers.management import Management
from servers.proxy import CuttingProxy
from servers.rabbitmq import RabbitMQ
from servers.relay import DaemonProcess
from support.browser import Page, chromium
from support.fix_servers import VHost
from support.sessions import Session, open_session

LAPTOP = "amqp://guest:guest@localhost/"


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """A browser without a window."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def live_broker(rabbitmq: RabbitMQ, management: Management) -> VHost:
    """A virtual host in which the page's user has the rights of rights.sh."""
    vhost = VHost(rabbitmq, "live")
    management.create_vhost(vhost.vhost)
    for command in rights():
        rabbitmq.rabbitmqctl(*[vhost.vhost if word == "/" else word for word in command])
    return vhost


def rights() -> Iterator[list[str]]:
    """The commands of rights.sh."""
    for line in Path(EXAMPLE / "rights.sh").read_text().splitlines():
        if line.startswith("rabbitmqctl "):
            yield shlex.split(line)[1:]


@pytest.fixture
def live_session(database: str, live_broker: VHost) -> Iterator[Session]:
    """A session in a database that setup.sql has been run in."""
    script = (EXAMPLE / "setup.sql").read_text().replace(LAPTOP, live_broker.url())
    name = conninfo_to_dict(database)["dbname"]
    with open_session(database) as session:
        session.run(script.replace(f"ALTER DATABASE {DATABASE} ", f"ALTER DATABASE {name} "))
        for queue in ("live.snapshot", "live.customer"):
            session.run("SELECT amqp.queue_purge(1, %s)", queue)
    # A setting of the database's counts from the next session on.
    with open_session(database) as session:
        yield session


@pytest.fixture
def live_daemon(database: str, live_session: Session) -> Iterator[DaemonProcess]:
    """The daemon that answers the page, and works the outbox."""
    with DaemonProcess(database) as daemon:
        yield daemon


@pytest.fixture
def web_proxy(rabbitmq: RabbitMQ) -> Iterator[CuttingProxy]:
    """A proxy to the node's port of Web STOMP."""
    with CuttingProxy(rabbitmq.web_stomp_port) as proxy:
        yield proxy


@pytest.fixture
def page(
    browser: webdriver.Chrome,
    live_broker: VHost,
    live_session: Session,
    live_daemon: DaemonProcess,
    web_proxy: CuttingProxy,
) -> Iterator[Page]:
    """The page, which reaches the broker through the proxy; it is not open yet."""
    with serve({**config(web_proxy.port), "vhost": live_broker.vhost}) as address:
        page = Page(browser, address, live_session)
        yield page
        browser.get("about:blank")
