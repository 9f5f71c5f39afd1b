"""Slips in what runs inside the server: extension/pg_amqp_py/backend."""

from __future__ import annotations

from mutants.slip import Slip

SLIPS = [
    # What no test of 1.1.0 noticed.
    Slip(
        "messages for large frames go to a connection with small ones",
        "extension/pg_amqp_py/backend/session.py",
        "if frame_max > self.frame_max.get(broker_id, 0):",
        "if frame_max:",
        ("tests/failures/test_replaced_connections.py",),
    ),
    Slip(
        "a row that an old snapshot shows counts for later transactions, too",
        "extension/pg_amqp_py/backend/asking.py",
        "version if server.sees_the_present() else None",
        "version",
        ("tests/backend/test_rows_read.py",),
    ),
    Slip(
        "each attempt of a commit makes the next wait longer",
        "extension/pg_amqp_py/wire/backoff.py",
        "if now >= self._until:",
        "if now >= 0:",
        ("tests/failures/test_hosts_that_fail.py",),
    ),
    Slip(
        "a host that has confirmed what was kept is not forgiven",
        "extension/pg_amqp_py/backend/delivering.py",
        "        broker.forget_failures()\n",
        "        pass\n",
        ("tests/failures/test_hosts_that_fail.py",),
    ),
    Slip(
        "hosts are tried in any order",
        "extension/pg_amqp_py/backend/tables.py",
        "ORDER BY b.host USING OPERATOR(pg_catalog.<), b.port USING OPERATOR(pg_catalog.<)\n",
        "",
        ("tests/backend/test_rows_read.py",),
    ),
    Slip(
        "a commit gives each of many silent hosts all of its time for what is kept",
        "extension/pg_amqp_py/backend/commit.py",
        "MOST_SECONDS_FOR_KEPT / len(broker.addresses)",
        "MOST_SECONDS_FOR_KEPT",
        ("tests/failures/test_hosts_that_fail.py",),
    ),
    Slip(
        "a connection that is lost near the end of the time leaves none for another",
        "extension/pg_amqp_py/backend/delivering.py",
        "    confirmed = None\n",
        "    confirmed = batch.confirmed\n",
        ("tests/failures/test_hosts_that_fail.py",),
    ),
    Slip(
        "a reading of the outbox goes on with a connection that the one before has lost",
        "extension/pg_amqp_py/backend/outbox_batch.py",
        """        session.begun().forget_connection(broker_id)
        run = _encoded(""",
        "        run = _encoded(",
        ("tests/failures/test_replaced_connections.py",),
    ),
    Slip(
        "a transaction goes on with the connection on which a message was not confirmed",
        "extension/pg_amqp_py/backend/publishing.py",
        "        session.begun().forget_connection(broker_id)\n",
        "",
        ("tests/failures/test_replaced_connections.py",),
    ),
    Slip(
        "a NUL in a broker's text reaches PostgreSQL",
        "extension/pg_amqp_py/backend/errors.py",
        """.decode().replace("\\0", "")""",
        ".decode()",
        ("tests/failures/test_texts_of_a_broker.py",),
    ),
    # What ends with a transaction, which hosts are left alone, how the time of a commit is shared.
    Slip(
        "a right that was granted in a savepoint outlives its rollback",
        "extension/pg_amqp_py/backend/session.py",
        """            self._forget_permissions(self.transaction)
            self._forget_rows_since(subtransaction, self.transaction)
""",
        "            self._forget_rows_since(subtransaction, self.transaction)\n",
        ("tests/backend/test_session.py",),
    ),
    Slip(
        "what comes after a diverted message does not follow it into the outbox",
        "extension/pg_amqp_py/backend/session.py",
        """        self.diverted |= {broker_id}
        self.publishing.pop(broker_id, None)
""",
        "        self.diverted |= {broker_id}\n",
        ("tests/backend/test_session.py",),
    ),
    Slip(
        "a host of a changed row is still left alone for what it failed in",
        "extension/pg_amqp_py/backend/broker.py",
        """            self.addresses = addresses
            self._failures.clear()
""",
        "            self.addresses = addresses\n",
        ("tests/failures/test_hosts_of_a_changed_row.py",),
    ),
    Slip(
        "a host that takes kept messages and confirms none is forgiven with each connection",
        "extension/pg_amqp_py/backend/broker.py",
        """        if not self.kept.batches:
            self._failures.pop(address, None)
""",
        "        self._failures.pop(address, None)\n",
        ("tests/failures/test_kept_messages_and_time.py",),
    ),
    Slip(
        "a connection that never answers is kept for ever",
        "extension/pg_amqp_py/backend/broker.py",
        "if not lives or (channel.owes_answer and time.monotonic() >= until):",
        "if not lives:",
        ("tests/failures/test_silent_connection.py",),
    ),
    Slip(
        "the first of several silent hosts takes all the time of a commit",
        "extension/pg_amqp_py/backend/delivering.py",
        "max(give_up - time.monotonic(), _PAUSE) / len(broker.addresses)",
        "max(give_up - time.monotonic(), _PAUSE)",
        ("tests/failures/test_hosts_that_fail.py",),
    ),
    Slip(
        "what earlier transactions have left is waited for as long as anything",
        "extension/pg_amqp_py/backend/delivering.py",
        "confirming=min(timeout, MOST_SECONDS_FOR_KEPT)",
        "confirming=timeout",
        ("tests/failures/test_kept_messages_and_time.py",),
    ),
    Slip(
        "a message behind a rolled back savepoint counts as one of a parent of it",
        "extension/pg_amqp_py/backend/buffer.py",
        "            self._newest = marks[-3] if marks else 0\n",
        "",
        ("tests/backend/test_transaction_buffer.py",),
    ),
    Slip(
        "messages that somebody has locked use up the limit of a batch",
        "extension/pg_amqp_py/backend/outbox_batch.py",
        "self.left + len(passed_over.rows)",
        "self.left",
        ("tests/outbox/test_batch_beside_locked_rows.py",),
    ),
    Slip(
        "a commit keeps the whole server waiting for it",
        "extension/pg_amqp_py/backend/commit.py",
        """server.interrupted() or (
            server.barrier_pending() and time.monotonic() > self._waits_since + _BARRIER
        )""",
        "server.interrupted()",
        ("tests/publishing/test_commit_wait.py::test_dropping_another_database_goes_on",),
    ),
]
