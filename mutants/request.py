"""Slips in what asks: backend/requesting.py and wire/request."""

from __future__ import annotations

from mutants.slip import Slip

_BACKEND = "extension/pg_amqp_py/backend"
_WIRE = "extension/pg_amqp_py/wire/request"
_ERRORS = "tests/request/test_request_errors.py"
_INTERRUPTS = "tests/request/test_request_interrupts.py"

SLIPS = [
    Slip(
        "what may have been asked is asked again",
        f"{_BACKEND}/requesting.py",
        "if last_try or requests.written:",
        "if last_try:",
        (f"{_INTERRUPTS}::test_the_broker_goes_away_while_an_answer_is_awaited",),
    ),
    Slip(
        "what was surely not asked is given up",
        f"{_BACKEND}/requesting.py",
        "if last_try or requests.written:",
        "if True:",
        (f"{_INTERRUPTS}::test_what_was_not_written_whole_is_asked_on_another_connection",),
    ),
    Slip(
        "a request outlives who waits for its answer",
        f"{_BACKEND}/requesting.py",
        '                "expiration": expiration,\n',
        "",
        (f"{_ERRORS}::test_an_old_request_is_given_to_nobody",),
    ),
    Slip(
        "a queue without consumers is asked",
        f"{_BACKEND}/requesting.py",
        "return self.channel.consumers(queue, deadline) > 0",
        "return self.channel.consumers(queue, deadline) >= 0",
        (f"{_ERRORS}::test_nobody_consumes_the_queue",),
    ),
    Slip(
        "a queue that has answered once is never looked at again",
        f"{_BACKEND}/requesting.py",
        "time.monotonic() + _RECENT",
        "math.inf",
        (f"{_ERRORS}::test_the_last_consumer_has_gone",),
    ),
    Slip(
        "a queue of somebody's own cannot be asked",
        f"{_BACKEND}/requesting.py",
        "            if error.code == NOT_FOUND:\n                raise\n",
        "            raise\n",
        ("tests/request/test_requests.py::test_a_queue_that_is_somebody_s_own",),
    ),
    Slip(
        "captured transactions ask",
        f"{_BACKEND}/requesting.py",
        "if settings.capture.value():",
        "if False:",
        (f"{_ERRORS}::test_nothing_is_asked_while_messages_are_captured",),
    ),
    Slip(
        "any reply answers the request that is open",
        f"{_WIRE}/requests.py",
        'self._open.pop(properties.correlation_id or b"", None)',
        "self._open.popitem()[1] if self._open else None",
        (
            "tests/wire/test_requests.py::test_only_an_open_request_is_answered",
            "tests/request/test_hostile_replies.py::test_answers_with_other_ids",
        ),
    ),
    Slip(
        "a refusal of an earlier request is taken for one of this",
        f"{_WIRE}/channel.py",
        "            if self._unsettled:\n",
        "            if False:\n",
        (f"{_INTERRUPTS}::test_a_refusal_that_comes_too_late_is_nobody_s",),
    ),
    Slip(
        "an exchange that leads nowhere keeps its secret",
        f"{_BACKEND}/requesting.py",
        '                "mandatory": True,\n',
        "",
        (f"{_ERRORS}::test_an_exchange_that_leads_nowhere",),
    ),
    Slip(
        "a connection for requests outlives its broker's row",
        f"{_BACKEND}/broker.py",
        "self.requester.connection.address not in addresses:",
        "False:",
        ("tests/request/test_requests.py::test_a_changed_row_counts_from_the_next_request",),
    ),
]
