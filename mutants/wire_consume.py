"""Slips in the consumer's role: extension/pg_amqp_py/wire/consume."""

from __future__ import annotations

from mutants.slip import Slip

_READER = "extension/pg_amqp_py/wire/consume/reader.py"
_CHANNEL = "extension/pg_amqp_py/wire/consume/channel.py"
_HEADERS = "extension/pg_amqp_py/wire/consume/headers.py"
_READER_TESTS = ("tests/wire/test_consume_reader.py",)
_CHANNEL_TESTS = ("tests/wire/test_consume_channel.py",)
_HEADERS_TESTS = ("tests/wire/test_consume_headers.py",)

SLIPS = [
    Slip(
        "a whole message is taken though it is for another consumer",
        _READER,
        "                    or method != start\n",
        "",
        _READER_TESTS,
    ),
    Slip(
        "a whole body frame is taken though it is larger than was agreed",
        _READER,
        "                        or size > largest\n",
        "",
        _READER_TESTS,
    ),
    Slip(
        "a body may be larger than it was said to be",
        _READER,
        "if self._properties is None or size > self._missing:",
        "if self._properties is None:",
        _READER_TESTS,
    ),
    Slip(
        "the length of a body is believed without limit",
        _READER,
        "        if size > _LARGEST_BODY:\n",
        "        if False:\n",
        _READER_TESTS,
    ),
    Slip(
        "a frame that trickles in is copied for every piece",
        _READER,
        "            if not self._begins_whole(partial):\n                return\n",
        "",
        _READER_TESTS,
    ),
    Slip(
        "tags begin anew on a channel that is opened again",
        _READER,
        "        self._base = self._acknowledged = self.last\n",
        "        self.last = self._acknowledged = 0\n",
        (*_READER_TESTS, *_CHANNEL_TESTS),
    ),
    Slip(
        "a delivery is acknowledged twice",
        _READER,
        "        if tag <= self._acknowledged:\n            return 0\n",
        "",
        (*_READER_TESTS, *_CHANNEL_TESTS),
    ),
    Slip(
        "deliveries of a closed channel can still be taken",
        _CHANNEL,
        "            self._shut = True\n            self._forget()\n",
        "            self._shut = True\n",
        _CHANNEL_TESTS,
    ),
    Slip(
        "what came with an answer is waited for",
        _CHANNEL,
        "        if not self._reader.deliveries:\n",
        "        if True:\n",
        _CHANNEL_TESTS,
    ),
    Slip(
        "the broker is not told that it may cancel",
        _CHANNEL,
        ', "consumer_cancel_notify")',
        ",)",
        _CHANNEL_TESTS,
    ),
    Slip(
        "a reply is waited for without rest while another thread rings",
        "extension/pg_amqp_py/wire/connection.py",
        "        self._transport.heeds(False)\n",
        "",
        _CHANNEL_TESTS,
    ),
    Slip(
        "a table ends where it likes",
        _HEADERS,
        """    if at != end:
        raise MalformedError("the headers are cut short")
    return items
""",
        "    return items\n",
        _HEADERS_TESTS,
    ),
    Slip(
        "what is no UTF-8 is replaced in silence",
        _HEADERS,
        "        return _write(table, _ascii).encode()\n",
        '        return _write(table, _unicode).encode(errors="replace")\n',
        _HEADERS_TESTS,
    ),
    Slip(
        "a decimal goes through a double",
        _HEADERS,
        '        return f"{value:f}"\n',
        '        return f"{float(value)}"\n',
        _HEADERS_TESTS,
    ),
]
