"""What a broker shows of a connection of this program."""

from __future__ import annotations

import os
import socket

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

_LONGEST = 63
"""Characters of each part: what is longer says no more in a list."""


def connection_name(door: str, dsn: str | None) -> str:
    """As `pg-amqp relay shop on db1.example (4711 on host7)`.

    In a container, process ids are all the same; of several relays, the database tells which is
    which. None is for a process without one.
    """
    process = f"({os.getpid()} on {_short(socket.gethostname())})"
    database = [] if dsn is None else _database(dsn)
    return " ".join(["pg-amqp", _short(door), *database, process])


def _database(dsn: str) -> list[str]:
    """Which one, as far as that is known before it is connected to; never a password."""
    try:
        given = conninfo_to_dict(dsn)
    except ProgrammingError:
        # Whoever connects says what is wrong with it.
        return []
    known = {
        option.keyword.decode(): option.val.decode(errors="replace")
        for option in Conninfo.get_defaults()
        if option.val and option.keyword != b"password"
    } | {key: str(value) for key, value in given.items()}
    host = known.get("host") or known.get("hostaddr") or "localhost"
    name = known.get("dbname") or known.get("service") or known.get("user") or "a database"
    return [_short(name), "on", "localhost" if host.startswith(("/", "@")) else _short(host)]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
