"""Slips in the program beside the server: daemon/pg_amqp_daemon."""

from __future__ import annotations

from mutants.slip import Slip

SLIPS = [
    # What no test of 1.1.0 noticed.
    Slip(
        "the lease counts from the answer, not from the question",
        "daemon/pg_amqp_daemon/runtime/database.py",
        "        self.lease.answered(asked_at)\n",
        "        self.lease.answered(time.monotonic())\n",
        ("tests/daemon/test_lease.py",),
    ),
    Slip(
        "a sweep that has not read all leaves out what is behind",
        "daemon/pg_amqp_daemon/relay/reading.py",
        """            # There may be more: what is behind comes next.
            self.position = last
""",
        "            self.position = max(last or 0, self.position or 0)\n",
        ("tests/relay/test_reading.py",),
    ),
    Slip(
        "a connection that was lost is opened again without a pause",
        "daemon/pg_amqp_daemon/runtime/broker_connection.py",
        "        self._backoff.lost(time.monotonic())\n",
        "",
        ("tests/daemon/test_broker_connection.py",),
    ),
    Slip(
        "a worker whose thread is gone stays",
        "daemon/pg_amqp_daemon/runtime/supervisor.py",
        "                del self.workers[key]\n",
        "",
        ("tests/daemon/test_supervisor.py",),
    ),
    Slip(
        "a message that is published meanwhile goes with the outbox",
        "daemon/pg_amqp_daemon/install/install.py",
        """    connection.execute("LOCK TABLE amqp.outbox, amqp.outbox_dead")\n""",
        "",
        ("tests/outbox/test_install.py::test_removing_beside_somebody_who_publishes",),
    ),
    Slip(
        "a client that says nothing is listened to for ever",
        "daemon/pg_amqp_daemon/runtime/metrics.py",
        "    timeout = 5\n",
        "    timeout = None\n",
        ("tests/relay/test_parts.py::test_a_client_that_says_nothing_is_sent_away",),
    ),
    # The lease, waits and locks, order, what is remembered.
    Slip(
        "the lease lasts until the very moment at which somebody else may have the lock",
        "daemon/pg_amqp_daemon/runtime/lease.py",
        "asked_at + LEASE - _MARGIN",
        "asked_at + LEASE",
        ("tests/daemon/test_lease.py",),
    ),
    Slip(
        "the next session proves a lock that only the one before had",
        "daemon/pg_amqp_daemon/runtime/lease.py",
        """        self._taken = False
        self._until = 0.0
""",
        "        self._until = 0.0\n",
        ("tests/daemon/test_lease.py",),
    ),
    Slip(
        "at the end each worker has all of the grace for itself",
        "daemon/pg_amqp_daemon/runtime/supervisor.py",
        "worker.join(max(deadline - time.monotonic(), 0))",
        "worker.join(_GRACE)",
        ("tests/daemon/test_supervisor.py",),
    ),
    Slip(
        "after a long trouble the first loss of a session costs the longest wait",
        "daemon/pg_amqp_daemon/runtime/session_worker.py",
        "        self._backoff.succeeded()\n",
        "",
        ("tests/daemon/test_session_worker.py",),
    ),
    Slip(
        "a connection to a host that is not configured any more is gone on with",
        "daemon/pg_amqp_daemon/runtime/broker_connection.py",
        "if role.connection.address in self.addresses:",
        "if role.connection is not None:",
        ("tests/daemon/test_broker_connection.py",),
    ),
    Slip(
        "a session that has nothing to do is broken off",
        "daemon/pg_amqp_daemon/runtime/database.py",
        "            self._asked_at = None\n",
        "            pass\n",
        ("tests/daemon/test_database.py",),
    ),
    Slip(
        "an installation waits for a lock without end, and publishers behind it",
        "daemon/pg_amqp_daemon/install/install.py",
        "            connection.execute(_LOCK_TIMEOUT)\n",
        "",
        (
            "tests/outbox/test_install.py::test_a_lock_that_is_never_let_go_is_not_waited_for_for_ever",
        ),
    ),
    Slip(
        "what was delivered at last is still reported as refused",
        "daemon/pg_amqp_daemon/relay/ledger.py",
        "            self._locked.pop(known, None)\n",
        "",
        ("tests/relay/test_ledger.py",),
    ),
    Slip(
        "a key of messages under way is held back as if they had come late",
        "daemon/pg_amqp_daemon/relay/reading.py",
        "settled_id = self.position if idle else min(ids[0] for ids in under_way) - 1",
        "settled_id = self.position",
        ("tests/relay/test_reading.py",),
    ),
    Slip(
        "a run that was read ahead overtakes what the run before it failed with",
        "daemon/pg_amqp_daemon/relay/publisher.py",
        """            if not fresh:
                run.held |= held
""",
        "",
        ("tests/relay/test_publisher.py",),
    ),
    Slip(
        "what was confirmed late is remembered without bound",
        "daemon/pg_amqp_daemon/relay/parking.py",
        """        while len(self._delivered) > _REMEMBERED:
            del self._delivered[next(iter(self._delivered))]
""",
        "",
        ("tests/relay/test_parking.py",),
    ),
    Slip(
        "what cannot be given back is locked again every five seconds",
        "daemon/pg_amqp_daemon/relay/upkeep.py",
        "            interval = _COMPACT_REFUSED_INTERVAL\n",
        "",
        ("tests/relay/test_upkeep.py",),
    ),
]
