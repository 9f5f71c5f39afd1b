"""The one door to pika: its AMQP method codec, without its event loops.

`import pika` loads every adapter that pika has, and with them asyncio, ssl, tempfile and
selectors: most of the time and memory of a backend's first publish. Only pika.frame and
pika.spec are needed here. So they are loaded below a package whose `__init__` has not run, and
taken out of sys.modules again: whoever imports pika in the same process, before or after,
has a whole one, and their own release of it if they have one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

__all__ = ["UnsupportedAMQPFieldException", "frame", "spec"]


def _take_out_pika() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name == "pika" or name.startswith("pika.")]
    return {name: sys.modules.pop(name) for name in names}


def _load(*names: str) -> list[Any]:
    """The modules of pika with these names, for ourselves alone."""
    others = _take_out_pika()
    try:
        found = importlib.util.find_spec("pika")
        if found is None:
            raise ModuleNotFoundError("No module named 'pika'", name="pika")
        sys.modules["pika"] = importlib.util.module_from_spec(found)
        return [importlib.import_module(f"pika.{name}") for name in names]
    finally:
        _take_out_pika()
        sys.modules.update(others)


frame, spec, _exceptions = _load("frame", "spec", "exceptions")
UnsupportedAMQPFieldException = _exceptions.UnsupportedAMQPFieldException
