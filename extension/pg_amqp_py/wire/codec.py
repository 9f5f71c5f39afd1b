"""The one door to pika: its AMQP method and property codec, without its event loops.

`import pika` loads every adapter that pika has, and with them asyncio, ssl, tempfile and
selectors: most of the time and memory of a backend's first publish. Only pika.spec and
pika.frame are needed here, so the package object is put in place without running its
`__init__` yet; the first use of a public name of `pika` by anybody else in the process runs
it, and then it is the whole pika.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types


class _DeferredPackage(types.ModuleType):
    """A package that runs its `__init__` when a name is asked for that is no submodule."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__") and name not in ("__version__", "__all__"):
            raise AttributeError(name)
        if not name.startswith("__"):
            try:
                return importlib.import_module(f"{self.__name__}.{name}")
            except ModuleNotFoundError:
                pass
        # From here on an ordinary module: __init__ itself looks up names of this object.
        self.__class__ = types.ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(self)
        return getattr(self, name)


def _defer_pika() -> None:
    spec = None if "pika" in sys.modules else importlib.util.find_spec("pika")
    if spec is not None:
        package = importlib.util.module_from_spec(spec)
        package.__class__ = _DeferredPackage
        sys.modules["pika"] = package


_defer_pika()

from pika import frame, spec  # noqa: E402
from pika.exceptions import UnsupportedAMQPFieldException  # noqa: E402

__all__ = ["UnsupportedAMQPFieldException", "frame", "spec"]
