"""The same round trip as a function in C: what nothing that does this work could pass.

The extension needs no compiler. Where the bench finds none, or no headers of the server, it goes
without this figure, and says so.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from bench.limit import Stream
from pg_amqp_py.wire import methods
from pg_amqp_py.wire.methods import FRAME_MAX

CREATE = """
CREATE FUNCTION bench.roundtrip(port int, handshake bytea, message bytea) RETURNS boolean
LANGUAGE c AS '{library}'
"""
MISSING = "no C compiler here, or no headers of this server: the same round trip in C is left out"

_SOURCE = Path(__file__).parent / "roundtrip.c"
_CHANNELS = 2047
"""What RabbitMQ offers."""
_COMPILE = ("cc", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared")
# RabbitMQ reads on while it answers, so that nothing here needs to wait for the answers.
_HANDSHAKE = b"".join(
    [
        b"AMQP\x00\x00\x09\x01",
        methods.start_ok({"product": "the round trip in C"}, "guest", "guest"),
        methods.tune_ok(_CHANNELS, FRAME_MAX, 0),
        methods.open_vhost("/"),
        methods.OPEN_CHANNEL,
        methods.SELECT_CONFIRMS,
    ]
)


def build(bindir: Path, folder: Path) -> Path | None:
    """Compile the function for the server of these programs; None if something for it lacks."""
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
    handshake, frames = _HANDSHAKE.hex(), message.frames.hex()
    return f"SELECT bench.roundtrip({port}, '\\x{handshake}', '\\x{frames}')"
