"""Slips in AMQP itself: extension/pg_amqp_py/wire."""

from __future__ import annotations

from mutants.slip import Slip

SLIPS = [
    # What no test of 1.1.0 noticed, and two beside.
    Slip(
        "the memory of method frames grows without bound",
        "extension/pg_amqp_py/wire/encode.py",
        """            if len(self._methods) >= _KEPT_ENVELOPES:
                self._methods.clear()
""",
        "",
        ("tests/wire/test_encode.py",),
    ),
    Slip(
        "tags of what is not written after all stay given out",
        "extension/pg_amqp_py/wire/pump.py",
        "    channel.give_back(attempt.excess)\n",
        "",
        ("tests/wire/test_pump.py",),
    ),
    Slip(
        "an exchange counts as seen though messages to it were refused late",
        "extension/pg_amqp_py/wire/channel.py",
        """        self.forget_exchanges()
        self.reopen(deadline)
""",
        "        self.reopen(deadline)\n",
        ("tests/wire/test_channel.py", "tests/failures/test_late_refusal.py"),
    ),
    Slip(
        "a connection with half a frame written is gone on with",
        "extension/pg_amqp_py/wire/connection.py",
        "if not isinstance(error, StalledError) or (sending and not self.heartbeat):",
        "if not isinstance(error, StalledError):",
        ("tests/wire/test_connection.py",),
    ),
    Slip(
        "an address that swallows packets takes all the time",
        "extension/pg_amqp_py/wire/transport.py",
        "share = now + (deadline - now) / (len(found) - at)",
        "share = deadline",
        ("tests/wire/test_transport.py",),
    ),
    Slip(
        "nobody watches for a peer that is gone",
        "extension/pg_amqp_py/wire/transport.py",
        "    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)\n",
        "",
        ("tests/wire/test_transport.py",),
    ),
    Slip(
        "an empty password becomes none",
        "extension/pg_amqp_py/wire/uri.py",
        "_decode(password) if colon else None",
        "_decode(password) or None",
        ("tests/wire/test_uri.py",),
    ),
    Slip(
        "confirms of earlier messages are taken for those of the batch alone",
        "extension/pg_amqp_py/wire/channel.py",
        "if confirms is None or self.late:",
        "if confirms is None:",
        ("tests/wire/test_channel.py",),
    ),
    Slip(
        "unattended messages of a closed channel are asked for in the next one",
        "extension/pg_amqp_py/wire/channel.py",
        "self._unattended = self._refusing = self._shut = False",
        "self._refusing = self._shut = False",
        ("tests/wire/test_channel_states.py",),
    ),
    # Waits and their ends, what outlives a channel, limits and what is agreed upon.
    Slip(
        "a peer that trickles is waited for without end",
        "extension/pg_amqp_py/wire/transport.py",
        "            self._late = True\n",
        "            pass\n",
        ("tests/wire/test_transport.py",),
    ),
    Slip(
        "a program that was stopped gives up a broker that has sent its heartbeats",
        "extension/pg_amqp_py/wire/connection.py",
        "if now - self.received_at > 2 * self.heartbeat and not self._transport.arrived:",
        "if now - self.received_at > 2 * self.heartbeat:",
        ("tests/wire/test_heartbeats.py",),
    ),
    Slip(
        "a frame may be larger than was agreed upon",
        "extension/pg_amqp_py/wire/connection.py",
        "        self._frames.limit(frame_max)\n",
        "",
        ("tests/wire/test_agreed_frames.py",),
    ),
    Slip(
        "confirms of a closed channel are awaited in the next one",
        "extension/pg_amqp_py/wire/channel.py",
        "        self.late.clear()\n",
        "",
        ("tests/wire/test_channel.py", "tests/wire/test_channel_states.py"),
    ),
    Slip(
        "a channel that refuses is opened anew for every batch",
        "extension/pg_amqp_py/wire/channel.py",
        "if self.state is not State.REFUSING or time.monotonic() < self._opened_at + _RENEW:",
        "if self.state is not State.REFUSING:",
        ("tests/wire/test_channel.py", "tests/wire/test_channel_states.py"),
    ),
    Slip(
        "what was said before the channel was closed counts as an answer in the next one",
        "extension/pg_amqp_py/wire/channel.py",
        "        self.connection.forget_replies()\n",
        "",
        ("tests/wire/test_reopening.py",),
    ),
    Slip(
        "confirms that come slowly are no progress",
        "extension/pg_amqp_py/wire/pump.py",
        "if sent or confirms.outstanding < outstanding or outlast:",
        "if sent or outlast:",
        ("tests/wire/test_slow_confirms.py",),
    ),
    Slip(
        "a broker imposes heartbeats on whoever cannot send any",
        "extension/pg_amqp_py/wire/handshake.py",
        "heartbeat = min(heartbeat, offered or heartbeat)",
        "heartbeat = offered or heartbeat",
        ("tests/wire/test_heartbeats.py",),
    ),
    Slip(
        "a confirm of many counts those twice that were confirmed early",
        "extension/pg_amqp_py/wire/confirms.py",
        "                self._early.difference_update(range(self._next, tag + 1))\n",
        "                pass\n",
        ("tests/wire/test_confirms.py",),
    ),
    Slip(
        "half of a message stays behind where memory ends",
        "extension/pg_amqp_py/wire/encode.py",
        "        del stream[start:]\n",
        "",
        ("tests/wire/test_encode.py",),
    ),
]
