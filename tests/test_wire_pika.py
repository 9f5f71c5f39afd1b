"""What wire needs of pika: fails loudly when a release of pika moves it."""

from __future__ import annotations

import subprocess
import sys

from pg_amqp_py.wire import codec

METHODS = """
Connection.Start Connection.StartOk Connection.Tune Connection.TuneOk Connection.Open
Connection.OpenOk Connection.Close Connection.CloseOk Connection.Blocked Connection.Unblocked
Channel.Open Channel.OpenOk Channel.Flow Channel.FlowOk Channel.Close Channel.CloseOk
Exchange.Declare Exchange.Delete Exchange.Bind Exchange.Unbind
Queue.Declare Queue.Bind Queue.Unbind Queue.Purge Queue.Delete
Basic.Publish Basic.Return Basic.Ack Basic.Nack Confirm.Select Confirm.SelectOk
"""
PROGRAM = """
import sys
from pg_amqp_py.wire import connection
assert not {"asyncio", "ssl", "tempfile", "pika.adapters", "pika.connection"} & set(sys.modules)
import pika
assert pika.__version__.startswith("1.4.")
assert pika.BlockingConnection.__module__ == "pika.adapters.blocking_connection"
assert pika.spec is connection.spec
from pika import URLParameters
import pika.adapters.select_connection
print("whole")
"""


def test_the_codec_comes_without_the_event_loops_and_becomes_whole_when_asked() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert finished.stdout == "whole\n", finished.stderr


def test_a_pika_that_is_loaded_already_is_used() -> None:
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            "import pika; from pg_amqp_py.wire import codec; print(codec.spec is pika.spec)",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert finished.stdout == "True\n", finished.stderr


def test_the_methods_that_are_used() -> None:
    spec = codec.spec
    for name in METHODS.split():
        cls, method = name.split(".")
        assert name == getattr(getattr(spec, cls), method).NAME
