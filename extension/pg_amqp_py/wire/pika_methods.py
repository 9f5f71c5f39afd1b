"""The one door to pika: its encoding of the methods that change what a broker holds.

`import pika` loads every adapter that pika has, and with them asyncio, ssl, tempfile and
selectors. Only pika.spec is needed here. So it is loaded below a package whose `__init__` has not
run, and taken out of sys.modules again: whoever imports pika in the same process, before or
after, has a whole one, and their own release of it if they have one.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from pg_amqp_py.wire.methods import CHANNEL, frame

__all__ = ["encode", "encode_with_arguments", "spec"]

_NO_ARGUMENTS = bytes(4)


def _take_out_pika() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == "pika" or name.startswith("pika.")]
    return {name: sys.modules.pop(name) for name in names}


def _load(*names: str) -> list[Any]:
    """The modules of pika with these names, for ourselves alone."""
    others = _take_out_pika()
    try:
        # In a PostgreSQL server it is beside this package, in a folder that is not on the path.
        beside = Path(__file__).parents[2]
        found = PathFinder.find_spec("pika", [str(beside), *sys.path])
        if found is None:
            raise ModuleNotFoundError("No module named 'pika'", name="pika")
        sys.modules["pika"] = module_from_spec(found)
        return [importlib.import_module(f"pika.{name}") for name in names]
    finally:
        _take_out_pika()
        sys.modules.update(others)


(spec,) = _load("spec")


def encode(method: Any) -> bytes:
    """The frame of a method of pika.spec, on the channel."""
    return frame(CHANNEL, method.INDEX, b"".join(method.encode()))


def encode_with_arguments(method: Any, arguments: bytes) -> bytes:
    """The same with a table of arguments, which pika could not encode if it holds doubles."""
    payload = b"".join(method.encode())
    # The last field of each method that has any.
    assert payload.endswith(_NO_ARGUMENTS)
    return frame(CHANNEL, method.INDEX, payload[: -len(_NO_ARGUMENTS)] + arguments)
