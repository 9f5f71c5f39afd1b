"""Opening a connection: TCP, perhaps TLS, and the handshake of AMQP 0-9-1, section 2.2.4."""

from __future__ import annotations

import time

from pg_amqp_py.wire import methods
from pg_amqp_py.wire.connection import Connection
from pg_amqp_py.wire.errors import (
    ACCESS_REFUSED,
    CONNECTION_FORCED,
    FRAME_ERROR,
    ChannelClosedError,
    ConnectError,
    ConnectionLostError,
    NotAMQPError,
    RejectedError,
    StalledError,
    TLSError,
    UnreachableError,
)
from pg_amqp_py.wire.methods import FRAME_MAX
from pg_amqp_py.wire.transport import open_transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pg_amqp_py.wire.address import Address
    from pg_amqp_py.wire.connection import Channel
    from pg_amqp_py.wire.table import JSON

    Role = TypeVar("Role", bound=Channel)

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
_LONGEST_LOGIN = FRAME_MAX - 1024
"""Bytes of username and password; what goes beside them in a frame is shorter than the rest."""
_SURE = 4096
"""Bytes of a frame that every broker takes before its size is negotiated (frame-min-size)."""


def connect(
    role: Callable[[Connection], Role],
    address: Address,
    client: dict[str, JSON],
    timeout: float,
    on_wait: Callable[[], None],
    *,
    heartbeat: int = 0,
) -> Role:
    """Open a connection to `address` within `timeout` seconds, and its channel in a role.

    `client` is what RabbitMQ shows of the client: product, platform, connection_name. With
    `heartbeat`, of so many seconds at most, the caller sees to it that Connection.beat() is called
    while the connection is idle, too: a PostgreSQL backend cannot. Raises ConnectError
    (UnreachableError, NotAMQPError, RejectedError, TLSError) and whatever `on_wait` raises.
    """
    login = f"{address.username}{address.password}".encode(errors="surrogateescape")
    if len(login) > _LONGEST_LOGIN:
        raise RejectedError(
            f"username and password have {len(login)} bytes; no broker takes a frame with more"
            f" than {_LONGEST_LOGIN}",
            FRAME_ERROR,
        )
    deadline = time.monotonic() + timeout
    connection = Connection(open_transport(address, timeout, on_wait), address)
    channel = role(connection)
    connection.attach(channel)
    try:
        capabilities: dict[str, JSON] = dict.fromkeys(channel.capabilities, True)
        _log_in(connection, {**client, "capabilities": capabilities}, deadline, heartbeat)
        channel.open(deadline)
        connection.complete()
    except (ConnectionLostError, StalledError, ChannelClosedError) as error:
        connection.abandon(ConnectionLostError(str(error)))
        if isinstance(error, ConnectionLostError) and _rejects(error):
            raise RejectedError(str(error), error.code) from None
        raise UnreachableError(f"the handshake was cut off: {error}") from None
    except BaseException as error:
        connection.abandon(ConnectionLostError(str(error)))
        raise
    return channel


def _log_in(
    connection: Connection, client: dict[str, JSON], deadline: float, heartbeat: int
) -> None:
    address = connection.address
    try:
        connection.send(_PROTOCOL_HEADER, deadline)
        start = connection.expect(methods.CONNECTION_START, deadline)
        properties, mechanisms = methods.server_properties(start)
    except (ConnectionLostError, StalledError) as error:
        raise _no_greeting(connection, error) from None
    connection.introduce(str(properties.get("product", "")), str(properties.get("version", "")))
    if "PLAIN" not in mechanisms:
        raise RejectedError("the broker does not offer SASL mechanism PLAIN", ACCESS_REFUSED)
    login = methods.start_ok(client, address.username, address.password)
    try:
        connection.send(login, deadline)
        tune = connection.expect(methods.CONNECTION_TUNE, deadline)
    except ConnectionLostError as error:
        if len(login) > _SURE and error.code in (0, FRAME_ERROR):
            raise _too_long(login) from None
        raise
    channels, frame_max, offered = methods.tuning(tune)
    frame_max = min(frame_max or FRAME_MAX, FRAME_MAX)
    heartbeat = min(heartbeat, offered or heartbeat)
    connection.send(methods.tune_ok(channels, frame_max, heartbeat), deadline)
    connection.tune(frame_max, heartbeat)
    connection.send(methods.open_vhost(address.vhost), deadline)
    connection.expect(methods.CONNECTION_OPEN_OK, deadline)


def _rejects(error: ConnectionLostError) -> bool:
    """Whether the broker says no. Without Connection.Close the network broke."""
    return error.code not in (0, CONNECTION_FORCED)


def _too_long(login: bytes) -> RejectedError:
    return RejectedError(
        f"the broker ended the connection in the login, a frame of {len(login)} bytes; RabbitMQ"
        " takes 4096 bytes of one, from 4.1 on 8192",
        FRAME_ERROR,
    )


def _no_greeting(connection: Connection, error: Exception) -> ConnectError:
    """Why the peer did not begin the handshake."""
    greeting = connection.greeting
    if greeting[:2] == b"\x15\x03":
        return TLSError("the port expects TLS")
    if greeting[:4] == b"AMQP":
        return NotAMQPError("the server speaks another version of AMQP")
    if greeting:
        line = greeting[:40].decode("ascii", "replace").splitlines()[0]
        shown = "".join(c if c.isprintable() else "?" for c in line)
        return NotAMQPError(f'the server greets with "{shown}"')
    if isinstance(error, StalledError):
        return UnreachableError("connected, but the server does not answer")
    if connection.address.ssl:
        # In TLS 1.3 the server looks at the client's certificate after the handshake.
        return TLSError(f"the broker ended the connection after the TLS handshake: {error}")
    return NotAMQPError(f"the connection ended before a greeting: {error}")
