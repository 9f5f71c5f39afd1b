"""What wire needs of pika, and that it leaves pika to others as they know it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pg_amqp_py.wire import codec

METHODS = """
Connection.Start Connection.StartOk Connection.Tune Connection.TuneOk Connection.Open
Connection.OpenOk Connection.Close Connection.CloseOk Connection.Blocked Connection.Unblocked
Channel.Open Channel.OpenOk Channel.Flow Channel.FlowOk Channel.Close Channel.CloseOk
Exchange.Declare Exchange.Delete Exchange.Bind Exchange.Unbind
Queue.Declare Queue.Bind Queue.Unbind Queue.Purge Queue.Delete
Basic.Publish Basic.Return Basic.Ack Basic.Nack Confirm.Select Confirm.SelectOk
"""

PROGRAMS = {
    "the event loops are not loaded": """
from pg_amqp_py.wire import connection
loaded = {"asyncio", "ssl", "tempfile", "pika", "pika.adapters", "pika.connection"}
assert not loaded & set(sys.modules), loaded & set(sys.modules)
""",
    "others import it later": """
from pg_amqp_py.wire import connection
from pika.adapters.blocking_connection import BlockingConnection
import importlib, pika
assert pika.BlockingConnection is BlockingConnection
importlib.reload(pika)
""",
    "others have imported it before": """
import pika
from pika.adapters.blocking_connection import BlockingConnection
before = {name: module for name, module in sys.modules.items() if name.startswith("pika")}
from pg_amqp_py.wire import connection
after = {name: module for name, module in sys.modules.items() if name.startswith("pika")}
assert before == after
assert pika.BlockingConnection is BlockingConnection
assert connection.spec is not pika.spec
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_pika_in_a_process(name: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-c", f"import sys{PROGRAMS[name]}print('done')"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert finished.stdout == "done\n", finished.stderr


def test_the_methods_that_are_used() -> None:
    for name in METHODS.split():
        cls, method = name.split(".")
        assert name == getattr(getattr(codec.spec, cls), method).NAME
