"""The same round trips as functions in C: what nothing that does this work could pass.

The extension needs no compiler. Where the bench finds none, or no headers of the server, it goes
without this figure, and says so.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.limit import Stream
from pg_amqp_py.wire import methods
from pg_amqp_py.wire.consume.methods import BASIC_CONSUME, consume_replies
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.methods import CHANNEL, FRAME_MAX
from pg_amqp_py.wire.properties import DIRECT_REPLY_TO, short_string
from servers.processes import Process

CREATE = """
CREATE FUNCTION bench.roundtrip(port int, handshake bytea, message bytea) RETURNS boolean
LANGUAGE c AS '{library}';
CREATE FUNCTION bench.ask(port int, handshake bytea, request bytea) RETURNS bytea
LANGUAGE c AS '{library}'
"""
MISSING = "no C compiler here, or no headers of this server: the same round trip in C is left out"

_SOURCE = Path(__file__).parent / "roundtrip.c"
_CHANNELS = 2047
"""What RabbitMQ offers."""
_PROGRAM = ("cc", "-O2", "-Wall", "-Wextra")
_COMPILE = (*_PROGRAM, "-fPIC", "-shared")
# RabbitMQ reads on while it answers, so that nothing here needs to wait for the answers.
_OPENING = b"".join(
    [
        b"AMQP\x00\x00\x09\x01",
        methods.start_ok({"product": "the round trip in C"}, "guest", "guest"),
        methods.tune_ok(_CHANNELS, FRAME_MAX, 0),
        methods.open_vhost("/"),
        methods.OPEN_CHANNEL,
    ]
)
_NO_ACK = 2
_TAG = "c"


def build(bindir: Path, folder: Path) -> Path | None:
    """Compile the functions for the server of these programs; None if something for it lacks."""
    headers = _headers(bindir) if shutil.which(_COMPILE[0]) else None
    if headers is None:
        return None
    library = folder / "roundtrip.so"
    # The server's headers as the system's: warnings are for what is ours.
    command = [*_COMPILE, "-isystem", str(headers), str(_SOURCE), "-o", str(library)]
    subprocess.run(command, check=True)
    library.chmod(0o755)
    return library


def _headers(bindir: Path) -> Path | None:
    pg_config = bindir / "pg_config"
    if not pg_config.exists():
        return None
    said = subprocess.check_output([pg_config, "--includedir-server"], text=True)
    folder = Path(said.strip())
    return folder if (folder / "postgres.h").exists() else None


def statement(port: int, message: Stream) -> str:
    """The SQL that publishes a message to the broker at this port when it commits."""
    return _call("roundtrip", port, methods.SELECT_CONFIRMS, message.frames)


def request(port: int, queue: str, body: bytes) -> str:
    """The SQL that sends a request to a queue of that broker, and returns the reply's body."""
    envelope = Envelope(
        "", queue, reply_to=DIRECT_REPLY_TO, correlation_id="c" * 32, expiration="4999"
    )
    stream = bytearray()
    Encoder().append(stream, tuple(envelope), body)
    return _call("ask", port, consume_replies(_TAG), bytes(stream))


def _call(function: str, port: int, role: bytes, frames: bytes) -> str:
    handshake = (_OPENING + role).hex()
    return f"SELECT bench.{function}({port}, '\\x{handshake}', '\\x{frames.hex()}')"


@contextmanager
def echo(port: int, queue: str, folder: Path) -> Iterator[None]:
    """Somebody who answers whatever comes into a queue, as fast as it can be done."""
    program = folder / "echo"
    subprocess.run([*_PROGRAM, str(_SOURCE.with_name("echo.c")), "-o", str(program)], check=True)
    arguments = short_string("queue", queue) + short_string("tag", _TAG)
    unacknowledged = bytes([_NO_ACK, 0, 0, 0, 0])
    consume = methods.frame(CHANNEL, BASIC_CONSUME, b"\0\0" + arguments + unacknowledged)
    command: list[str | Path] = [program, str(port), (_OPENING + consume).hex()]
    process = Process(command, folder / "echo.log", as_ourselves=True)
    try:
        yield
    finally:
        process.end(signal.SIGTERM)
