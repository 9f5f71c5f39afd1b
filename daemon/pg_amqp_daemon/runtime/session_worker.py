"""A thread that works in one session of a database after the other."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import psycopg

from pg_amqp_daemon.runtime.database import Database, first_line
from pg_amqp_daemon.runtime.logs import name_of
from pg_amqp_py.wire.backoff import Backoff

_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 2.0


def trouble_of(error: Exception) -> str:
    """What is told of an error that ends a session."""
    if isinstance(error, psycopg.Error):
        return first_line(error)
    # A defect of ours; what it says may be a password.
    return f"defect: {type(error).__name__}"


class SessionWorker:
    """What a supervisor keeps going, for doors that work in a database.

    A door says what is done in a session, and calls start() when it has all that this needs.
    """

    def __init__(self, database: Database, door: str, name: str, log: Any) -> None:
        self.session_trouble: str | None = None
        """Why the last session ended, until another one does what it should."""
        self._database = database
        self._door = door
        self._log = log
        self._stopping = threading.Event()
        # Jitter, so that many do not all come back in the same moment.
        self._backoff = Backoff(_FIRST_BACKOFF, _LONGEST_BACKOFF, lambda: random.uniform(0.5, 1.0))
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether all its threads work."""
        return self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """Whether it works no more."""
        return not self._thread.is_alive()

    def unblock(self) -> None:
        """Give up a database that does not answer."""
        self._database.unblock()

    def stop(self) -> None:
        """Finish what is under way, and end."""
        self._stopping.set()

    def abort(self) -> None:
        """End at once."""
        self.stop()

    def join(self, timeout: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout)

    # -- in the thread -----------------------------------------------------------------

    def work_in_session(self) -> None:
        """Work until the session ends, or `stopping` is set. May raise psycopg.Error."""
        raise NotImplementedError

    def tell(self, trouble: str) -> None:
        """The session has ended because of this: the log says the same trouble once."""
        if trouble != self.session_trouble:
            self._log.warning("database not usable", error=trouble)
        self.session_trouble = trouble

    def on_session_end(self, failure: psycopg.Error | None) -> None:
        """The session has ended, with this error if with any of the database's."""

    def on_end(self) -> None:
        """There will be no further session."""

    def _well(self) -> None:
        """The session does what it should."""
        self.session_trouble = None
        self._backoff.succeeded()

    def _work(self) -> None:
        while not self._stopping.is_set():
            failure: psycopg.Error | None = None
            try:
                with self._database.connected():
                    self.work_in_session()
            except psycopg.Error as error:
                failure = error
                self.tell(trouble_of(error))
            except Exception as error:
                # A defect of ours must not end the program.
                self.session_trouble = trouble_of(error)
                self._log.exception(f"{self._door} failed", error=name_of(error))
            self.on_session_end(failure)
            self._stopping.wait(self._backoff.failed(time.monotonic()))
        self.on_end()
