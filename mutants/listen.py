"""Slips in the door that listens, and in its SQL."""

from __future__ import annotations

from mutants.slip import Slip

_DOOR = "daemon/pg_amqp_daemon/listen"
_DEATHS = "tests/listen/test_deaths.py"
_BROKER = "tests/listen/test_broker_failures.py"
_ROWS = "tests/listen/test_rows.py"
_OWED = "tests/listen/test_owed_gaps.py"
_WRITER = "tests/listen/test_outbox_writer.py"

SLIPS = [
    Slip(
        "a channel is not quoted",
        f"{_DOOR}/listener.py",
        """    return '"' + channel.replace('"', '""') + '"'""",
        "    return channel",
        ("tests/listen/test_notifications.py",),
    ),
    Slip(
        "a session that is lost is no gap",
        f"{_DOOR}/listening.py",
        "        self._tally.gaps.owe(listener.id, reason, reached)\n",
        "        if reason != 'postgres':\n"
        "            self._tally.gaps.owe(listener.id, reason, reached)\n",
        (_DEATHS,),
    ),
    Slip(
        "what is dropped is not told",
        f"{_DOOR}/tally.py",
        'message.listener.id, "dropped", since)\n',
        "0, 'dropped', since)\n",
        (f"{_BROKER}::test_a_row_that_drops_tells_of_a_gap_when_the_broker_is_back",),
    ),
    Slip(
        "a gap that could not be told is forgotten",
        f"{_DOOR}/tally.py",
        "                self.gaps.owe(gap.listener_id, gap.reason, gap.since)\n",
        "                pass\n",
        ("tests/listen/test_tally.py",),
    ),
    Slip(
        "an epoch begins with the last look at the clock",
        f"{_DOOR}/gaps.py",
        "            self._epochs.append(Epoch(self._clock))\n            self._clock = clock\n",
        "            self._clock = clock\n            self._epochs.append(Epoch(self._clock))\n",
        ("tests/listen/test_gap_account.py",),
    ),
    Slip(
        "a missing exchange costs its neighbours the channel",
        f"{_DOOR}/courier.py",
        "            self._refuse_missing(pending, channel, refused)\n",
        "",
        ("tests/listen/test_courier.py",),
    ),
    Slip(
        "what somebody else has against one message is against all",
        f"{_DOOR}/outbox.py",
        "            if len(part) > 1:\n",
        "            if False:\n",
        (f"{_BROKER}::test_somebody_elses_constraint_on_the_outbox_loses_nothing_but_its_own",),
    ),
    Slip(
        "what is left when the session dies is forgotten",
        f"{_DOOR}/outbox.py",
        "                self._held.extendleft(reversed(left))\n",
        "",
        (f"{_WRITER}::test_a_session_that_dies_while_the_one_at_fault_is_sought_loses_nothing",),
    ),
    Slip(
        "a gap waits until something else is published",
        f"{_DOOR}/listening.py",
        "self.couriers.workers[listener.broker_id].takes)",
        "self.couriers.workers[listener.broker_id].trouble is None)",
        (f"{_OWED}::test_an_exchange_that_was_missing_gets_the_gap_by_itself",),
    ),
    Slip(
        "a queue that does not confirm diverts the messages of all rows",
        f"{_DOOR}/courier.py",
        "[m for m in pending.values() if m.listener.id in self._stalled]",
        "list(pending.values())",
        (f"{_OWED}::test_a_queue_that_does_not_confirm_keeps_no_other_row",),
    ),
    Slip(
        "rows are read whether or not they have changed",
        "sql/listener/functions/listener_look.sql",
        "WHEN v.version IS DISTINCT FROM $2 THEN",
        "WHEN true THEN",
        (f"{_ROWS}::test_rows_that_have_not_changed_are_not_read_again",),
    ),
    Slip(
        "another session may listen as well",
        "sql/listener/functions/listener_take.sql",
        "    IF held.worker_pid <> pg_backend_pid() AND",
        "    IF false AND held.worker_pid <> pg_backend_pid() AND",
        (f"{_DEATHS}::test_the_daemon_is_killed_and_another_one_stands_by",),
    ),
    Slip(
        "a name that LISTEN would cut is taken",
        "sql/listener/functions/listener_check.sql",
        "octet_length(NEW.channel) > 63",
        "length(NEW.channel) > 63",
        (_ROWS,),
    ),
    Slip(
        "a disabled row cannot be notified",
        "sql/listener/functions/notify.sql",
        "    WHERE l.channel = channel\n",
        "    WHERE l.channel = channel AND l.enabled\n",
        ("tests/listen/test_notifications.py",),
    ),
]
