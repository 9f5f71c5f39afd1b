"""What runs beside the test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from support.patience import LIMIT


class Call:
    """Something that runs in a thread of its own; `result()` waits for it."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self._value: object = None
        self.started = time.monotonic()
        self.seconds = 0.0

        def run() -> None:
            try:
                self._value = function()
            except BaseException as error:
                self._error = error
            self.seconds = time.monotonic() - self.started

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    def result(self, limit: float = LIMIT) -> Any:
        """Return its value or raise its error. Fails if it hangs."""
        self._thread.join(limit)
        assert not self.running, f"still running after {limit:g} s"
        if self._error is not None:
            raise self._error
        return self._value
