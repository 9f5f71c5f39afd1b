"""Slips in the door that consumes, and in the SQL of the inbox."""

from __future__ import annotations

from mutants.slip import Slip

_DOOR = "daemon/pg_amqp_daemon/consume"
_SQL = "sql/inbox/functions"
_WORKER_TESTS = "tests/consume/test_worker.py"
_HELD_TESTS = ("tests/consume/test_held.py",)

SLIPS = [
    Slip(
        "a copy is stored though the ledger knows it",
        f"{_SQL}/consumer_todo.sql",
        " WHERE f.key IN (SELECT r.message_id FROM fresh AS r)",
        "",
        ("tests/consume/test_duplicates.py",),
    ),
    Slip(
        "what fails with nothing is a message's fault",
        f"{_DOOR}/store.py",
        "            self._exculpate(plan)\n",
        "",
        ("tests/consume/test_tables.py",),
    ),
    Slip(
        "after a COMMIT whose answer is lost, all is stored again",
        f"{_DOOR}/worker.py",
        "            if self._inbox.last_batch() == batch.id:\n",
        "            if False:\n",
        (f"{_WORKER_TESTS}::test_a_commit_whose_answer_is_lost_stores_nothing_twice",),
    ),
    Slip(
        "what could not be stored is forgotten",
        f"{_DOOR}/worker.py",
        "        if batch.dead is None:\n            self._receiver.put_back(batch)\n",
        "",
        (f"{_WORKER_TESTS}::test_large_messages_are_held_within_bounds",),
    ),
    Slip(
        "another plan is not noticed",
        f"{_DOOR}/worker.py",
        "not plan.is_like(self._plan)",
        "False",
        (f"{_WORKER_TESTS}::test_a_changed_row_counts_for_what_comes_then",),
    ),
    Slip(
        "a consumer is ended while messages are on their way",
        f"{_DOOR}/subscription.py",
        "        if unacked >= wanted.prefetch or (",
        "        if True or (",
        (f"{_WORKER_TESTS}::test_who_is_asked_to_end_stores_and_acknowledges_what_it_has",),
    ),
    Slip(
        "whatever is held, more is received",
        f"{_DOOR}/receiver.py",
        "        if window.is_full:\n            self._rest(_TICK)\n",
        "        if False:\n            self._rest(_TICK)\n",
        (f"{_WORKER_TESTS}::test_large_messages_are_held_within_bounds",),
    ),
    Slip(
        "a batch may have any number of bytes",
        f"{_DOOR}/held.py",
        "        if size > room and (at or any_before):\n            break\n",
        "",
        _HELD_TESTS,
    ),
    Slip(
        "what is put back comes last",
        f"{_DOOR}/held.py",
        "        self._chunks.appendleft(chunk)\n        self._measure",
        "        self._chunks.append(chunk)\n        self._measure",
        _HELD_TESTS,
    ),
    Slip(
        "a rewind does not count against a batch that is being stored",
        f"{_DOOR}/inbox.py",
        "WHERE o.rewinds = %s AND ",
        "WHERE (true OR o.rewinds = %s) AND ",
        ("tests/consume/test_streams.py",),
    ),
    Slip(
        "an idle consumer asks everything at every look",
        f"{_DOOR}/worker.py",
        "        elif not self._is_at_rest:\n",
        "        elif True:\n",
        ("tests/consume/test_idle.py",),
    ),
    Slip(
        "why a session ends is not written into the database",
        f"{_DOOR}/worker.py",
        "                self._record.tell_now(trouble_of(error), self.ready)\n",
        "                pass\n",
        ("tests/security/test_inbox_rights.py",),
    ),
    Slip(
        "points that InfluxDB refuses are forgotten",
        f"{_DOOR}/points.py",
        "            found.faults[found.places[at]] = Fault(fault.sqlstate, str(fault))\n",
        "            pass\n",
        ("tests/consume/test_influxdb_consumer.py",),
    ),
    Slip(
        "a role that may see no consumer is in trouble with pg-amqp run",
        f"{_DOOR}/consume.py",
        "        if not self._optional or self._database.ask(_MAY_LOOK) == [(True,)]:\n",
        "        if True:\n",
        ("tests/consume/test_program.py",),
    ),
]
