"""What wire needs of pika, that it leaves pika to others as they know it, and that both agree."""

from __future__ import annotations

import subprocess
import sys

import pika
import pytest

from pg_amqp_py.wire import methods, pika_methods
from pg_amqp_py.wire.errors import ConnectionLostError
from pg_amqp_py.wire.methods import Method

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pg_amqp_py.wire.table import JSON

METHODS = """
Exchange.Declare Exchange.Delete Exchange.Bind Exchange.Unbind
Queue.Declare Queue.Bind Queue.Unbind Queue.Purge Queue.Delete
"""

START = "import sys; before = set(sys.modules)"
PROGRAMS = {
    "the event loops are not loaded": """
from pg_amqp_py.wire import pika_methods
loaded = {"asyncio", "ssl", "tempfile", "pika", "pika.adapters", "pika.connection"}
assert not loaded & set(sys.modules), loaded & set(sys.modules)
""",
    "a publisher loads nothing of it": """
from pg_amqp_py.wire import channel, pump, small
spoilt = {"pika", "pika.spec", "typing", "re", "enum", "json", "logging", "socket"}
assert not spoilt & set(sys.modules) - before, spoilt & set(sys.modules) - before
assert not [name for name in sys.modules if name.startswith("pika")]
""",
    "others import it later": """
from pg_amqp_py.wire import pika_methods
from pika.adapters.blocking_connection import BlockingConnection
import importlib, pika
assert pika.BlockingConnection is BlockingConnection
importlib.reload(pika)
""",
    "others have imported it before": """
import pika
from pika.adapters.blocking_connection import BlockingConnection
before = {name: module for name, module in sys.modules.items() if name.startswith("pika")}
from pg_amqp_py.wire import pika_methods
after = {name: module for name, module in sys.modules.items() if name.startswith("pika")}
assert before == after
assert pika.BlockingConnection is BlockingConnection
assert pika_methods.spec is not pika.spec
""",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_pika_in_a_process(name: str) -> None:
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; before = set(sys.modules){PROGRAMS[name]}print('done')",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert finished.stdout == "done\n", finished.stderr


def test_the_methods_that_are_used() -> None:
    for name in METHODS.split():
        cls, method = name.split(".")
        assert name == getattr(getattr(pika_methods.spec, cls), method).NAME


def frame(method: object, channel: int = 0) -> bytes:
    encoded: bytes = pika.frame.Method(channel, method).marshal()
    return encoded


def test_what_a_publisher_says() -> None:
    client: dict[str, JSON] = {"product": "ü", "capabilities": {"basic.nack": True}}
    spec = pika.spec
    for ours, theirs in (
        (
            methods.start_ok(client, "me", "secret"),
            frame(spec.Connection.StartOk(client, "PLAIN", "\0me\0secret", "en_US")),
        ),
        (methods.tune_ok(2047, 131072, 0), frame(spec.Connection.TuneOk(2047, 131072, 0))),
        (methods.open_vhost("/ü"), frame(spec.Connection.Open("/ü"))),
        (methods.OPEN_CHANNEL, frame(spec.Channel.Open(), 1)),
        (methods.SELECT_CONFIRMS, frame(spec.Confirm.Select(), 1)),
        (
            methods.look_for_exchange("events"),
            frame(spec.Exchange.Declare(exchange="events", passive=True), 1),
        ),
        (methods.RESUME_FLOW, frame(spec.Channel.Flow(active=True), 1)),
        (methods.CONFIRM_CLOSED_CHANNEL, frame(spec.Channel.CloseOk(), 1)),
        (methods.CLOSE_CHANNEL, frame(spec.Channel.Close(200, "Goodbye", 0, 0), 1)),
        (methods.CLOSE_CONNECTION, frame(spec.Connection.Close(200, "Goodbye", 0, 0))),
        (methods.CONFIRM_CLOSED_CONNECTION, frame(spec.Connection.CloseOk())),
        (
            pika_methods.encode(pika_methods.spec.Queue.Purge(queue="q")),
            frame(spec.Queue.Purge(queue="q"), 1),
        ),
    ):
        assert ours == theirs


def heard(method: object) -> Method:
    encoded = frame(method)
    return Method(int.from_bytes(encoded[7:11], "big"), encoded[11:-1])


def test_what_a_publisher_hears() -> None:
    spec = pika.spec
    properties = {"product": "RabbitMQ", "capabilities": {"basic.nack": True}, "n": 1}
    start = heard(spec.Connection.Start(0, 9, properties, "PLAIN AMQPLAIN", "en_US"))
    assert methods.server_properties(start) == (properties, "PLAIN AMQPLAIN")
    assert methods.tuning(heard(spec.Connection.Tune(2047, 131072, 60))) == (2047, 131072, 60)
    assert heard(spec.Channel.Close(404, "no ü", 60, 40)).reply() == (404, "no ü")
    assert heard(spec.Connection.Close(320, "bye", 0, 0)).reply() == (320, "bye")
    assert heard(spec.Connection.Blocked("low on disk")).text(0)[0] == "low on disk"
    returned = heard(spec.Basic.Return(312, "NO_ROUTE", "exchange", "key"))
    assert returned.reply() == (312, "NO_ROUTE")
    assert returned.text(11) == ("exchange", 20)
    assert returned.text(20) == ("key", 24)


NUMBERS = """
Connection.Start Connection.Tune Connection.OpenOk Connection.Close Connection.CloseOk
Connection.Blocked Connection.Unblocked Channel.OpenOk Channel.FlowOk Channel.Close
Exchange.DeclareOk Basic.Publish Basic.Return Basic.Ack Basic.Nack Confirm.SelectOk
"""


def test_the_numbers_of_methods() -> None:
    for name in NUMBERS.split():
        cls, method = name.split(".")
        words = "".join(f"_{letter}" if letter.isupper() else letter for letter in method)
        ours = getattr(methods, f"{cls}{words}".upper())
        assert ours == getattr(getattr(pika.spec, cls), method).INDEX


def test_a_broker_of_another_make() -> None:
    start = heard(pika.spec.Connection.Start(0, 9, {"when": "x"}, "PLAIN", "en_US"))
    unknown = Method(start.index, start.arguments.replace(b"whenS", b"when?"))
    assert methods.server_properties(unknown)[1] == "PLAIN"


@pytest.mark.parametrize("size", range(6))
def test_what_is_cut_short(size: int) -> None:
    close = heard(pika.spec.Channel.Close(404, "gone", 60, 40))
    with pytest.raises(ConnectionLostError):
        Method(close.index, close.arguments[:size]).reply()
