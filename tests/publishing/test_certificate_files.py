"""Files of certificates that are none: an error at once, whatever opening them would do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from servers.certificates import Certificates
from servers.processes import give_to_server_user, temporary_folder
from support.calls import Call
from support.fix_servers import VHost
from support.sessions import Session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder() as folder:
        yield folder


def fifo(folder: Path) -> str:
    path = folder / "fifo"
    os.mkfifo(path)
    give_to_server_user(path)
    return str(path)


def endless(folder: Path) -> str:
    path = folder / "endless"
    path.touch()
    os.truncate(path, 1 << 40)
    give_to_server_user(path)
    return str(path)


FILES: dict[str, Callable[[Path], str]] = {
    "fifo": fifo,
    "endless": endless,
    "descriptor": lambda _: "/proc/self/fd/3",
    "zero": lambda _: "/dev/zero",
    "terminal": lambda _: "/dev/ptmx",
    "folder": str,
    "of no size": lambda _: "/proc/self/pagemap",
    "empty": lambda _: "/proc/self/mem",
    "missing": lambda folder: str(folder / "missing"),
}


@pytest.mark.parametrize("column", ["ssl_cacert", "ssl_cert", "ssl_key"])
@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_file(
    session: Session,
    broker: VHost,
    certificates: Certificates,
    folder: Path,
    column: str,
    kind: str,
) -> None:
    broker_id = session.add_broker(broker.url(tls=True))
    path = FILES[kind](folder)
    files = {"ssl_cacert": certificates.ca, "ssl_cert": certificates.client}
    for name, value in {**files, column: path}.items():
        session.run(f"UPDATE amqp.broker SET {name} = %s", str(value))
    error = Call(lambda: session.error("SELECT amqp.ping(%s)", broker_id)).result()
    assert error.sqlstate == "08001"
    assert f"could not load {column}" in error.message
    assert path in error.message
    assert session.run("SELECT 1") == [(1,)]


def test_a_file_through_a_link(
    session: Session, broker: VHost, certificates: Certificates, folder: Path
) -> None:
    link = folder / "link"
    link.symlink_to(certificates.ca)
    folder.chmod(0o755)
    broker_id = session.add_broker(broker.url(tls=True))
    session.run("UPDATE amqp.broker SET ssl_cacert = %s", str(link))
    assert session.value("SELECT host FROM amqp.ping(%s)", broker_id) == "127.0.0.1"
