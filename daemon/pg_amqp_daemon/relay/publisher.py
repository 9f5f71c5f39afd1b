"""The thread that delivers runs of messages to one broker, and the queues to it and from it."""

from __future__ import annotations

import queue
import threading

from pg_amqp_daemon.relay.deliverer import TICK, Deliverer
from pg_amqp_daemon.relay.outcome import Outcome
from pg_amqp_daemon.runtime.lease import Lease
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.waves import Run


class Publisher:
    """Delivers runs, one after the other, while the lease is valid.

    `put` hands one over, and `get` tells by and by what became of it, delivered as far as it could
    be. `name` is what the broker shows of its connection.
    """

    def __init__(self, broker_id: int, name: str, lease: Lease) -> None:
        self._todo: queue.SimpleQueue[tuple[Run, bool] | None] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._under_way = 0
        self._stopping = threading.Event()
        self._aborting = threading.Event()
        self._deliverer = Deliverer(
            broker_id, name, lease, self._told.put, self._stopping, self._aborting
        )
        self._thread = threading.Thread(
            target=self._work, name=f"publisher-{broker_id}", daemon=True
        )
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        """What keeps messages from being delivered now; None if nothing does."""
        return self._deliverer.trouble

    @property
    def connected(self) -> bool:
        """Whether the broker is connected."""
        return self._deliverer.connected

    @property
    def frame_max(self) -> int:
        """The broker's largest frame, as far as it is known."""
        return self._deliverer.frame_max

    @property
    def under_way(self) -> int:
        """How many runs were handed over and not got back."""
        return self._under_way

    @property
    def alive(self) -> bool:
        """Whether its thread works."""
        return self._thread.is_alive()

    def configure(self, addresses: list[Address]) -> None:
        """Use these hosts from the next connection on, and no connection to any other."""
        self._deliverer.configure(addresses)

    def put(self, run: Run) -> None:
        """Deliver a run when those before it are done."""
        # What one of those before it fails with holds back what was read before that was known.
        self._todo.put((run, self._under_way == 0))
        self._under_way += 1

    def get(self, timeout: float) -> Outcome | None:
        """What became of messages; None if nothing is known within `timeout` seconds.

        Or before wake() is called.
        """
        try:
            outcome = self._told.get(timeout=timeout)
        except queue.Empty:
            return None
        if outcome is not None and outcome.done:
            self._under_way -= 1
        return outcome

    def wake(self) -> None:
        """Whoever waits for what became of messages has something else to do."""
        self._told.put(None)

    def stop(self) -> None:
        """Write no more; what is written is still awaited."""
        self._stopping.set()
        self._todo.put(None)

    def abort(self) -> None:
        """Wait for nothing any more."""
        self._aborting.set()
        self.stop()

    def join(self, timeout: float) -> None:
        """Wait until the connection is closed."""
        self._thread.join(timeout)

    # -- in the thread -----------------------------------------------------------------

    def _work(self) -> None:
        held: set[str] = set()
        while (todo := self._next()) is not None:
            run, fresh = todo
            if not fresh:
                run.held |= held
            self._deliverer.deliver(run)
            held = run.held
        self._deliverer.close()

    def _next(self) -> tuple[Run, bool] | None:
        while True:
            try:
                return self._todo.get(timeout=TICK)
            except queue.Empty:
                self._deliverer.idle()
