"""Which messages are held back by the runs before theirs, without a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from pg_amqp_daemon.relay import publisher as publisher_module
from pg_amqp_daemon.relay.outcome import Outcome
from pg_amqp_daemon.relay.publisher import Publisher
from pg_amqp_daemon.runtime.lease import Lease
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.waves import Run
from support.patience import LIMIT

DONE = Outcome([], [], {}, done=True)


class Deliverer:
    """Delivers nothing: the first run fails with a message of key k."""

    def __init__(
        self, _broker_id: int, _name: str, _lease: Lease, tell: Callable[[Outcome], None], *_: Any
    ):
        self._tell = tell
        self.held: list[set[str]] = []
        """What each run was not to deliver."""

    def deliver(self, run: Run) -> None:
        self.held.append(set(run.held))
        if len(self.held) == 1:
            run.held.add("k")
        self._tell(DONE)

    def idle(self) -> None: ...

    def close(self) -> None: ...


def test_what_fails_holds_back_what_was_read_before_that_was_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publisher_module, "Deliverer", Deliverer)
    publisher = Publisher(1, "test", Lease())
    deliverer = cast(Deliverer, publisher._deliverer)
    for _ in range(2):
        publisher.put(Run([], Encoder()))
    for _ in range(2):
        assert publisher.get(LIMIT) is DONE
    # What is read now was read by somebody who knows.
    publisher.put(Run([], Encoder()))
    assert publisher.get(LIMIT) is DONE
    publisher.stop()
    publisher.join(LIMIT)
    assert deliverer.held == [set(), {"k"}, set()]
