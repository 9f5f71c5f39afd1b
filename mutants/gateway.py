"""Slips in the gateway: daemon/pg_amqp_daemon/gateway."""

from __future__ import annotations

from mutants.slip import Slip

_FOLDER = "daemon/pg_amqp_daemon/gateway"

SLIPS = [
    Slip(
        "nothing is tried before it goes where others are under way",
        f"{_FOLDER}/publisher.py",
        "if now - self._known.get(key, 0.0) < _KNOWN and key not in self._untried:",
        "if True:",
        (
            "tests/gateway/test_refusals.py::test_mistakes_of_some_requests_cost_no_others_their_confirm",
        ),
    ),
    Slip(
        "a user_id is nothing special",
        f"{_FOLDER}/publisher.py",
        "        user_id = message.user_id\n        return user_id is not None",
        "        user_id = None\n        return user_id is not None",
        (
            "tests/gateway/test_refusals.py::test_mistakes_of_some_requests_cost_no_others_their_confirm",
        ),
    ),
    Slip(
        "what was written when the connection broke is written again",
        f"{_FOLDER}/channel.py",
        "            if posted.end > self._sent:\n",
        "            if posted.end > 0:\n",
        ("tests/gateway/test_failures.py::test_connections_that_break_under_load",),
    ),
    Slip(
        "what was not written whole may have been published",
        f"{_FOLDER}/channel.py",
        "            if posted.end > self._sent:\n",
        "            if posted.end < 0:\n",
        ("tests/gateway/test_failures.py::test_half_a_message_is_surely_not_published",),
    ),
    Slip(
        "a login is known without its password",
        f"{_FOLDER}/login.py",
        "{self.vhost}{self.user}{self.password}",
        "{self.vhost}{self.user}",
        ("tests/gateway/test_refusals.py::test_a_wrong_password_after_a_right_one_is_refused",),
    ),
    Slip(
        "wrong passwords are not counted",
        f"{_FOLDER}/logins.py",
        "        if problem.status == 401 and network is not None:\n",
        "        if False and network is not None:\n",
        (
            "tests/gateway/test_refusals.py"
            "::test_wrong_passwords_are_tried_a_few_times_and_right_ones_still_pass",
        ),
    ),
    Slip(
        "a message that comes back passes for routed",
        f"{_FOLDER}/posted.py",
        "        if self.returned is None:\n",
        "        if True:\n",
        ("tests/gateway/test_refusals.py::test_what_no_queue_takes_comes_back_if_it_is_mandatory",),
    ),
    Slip(
        "of what a login is told about alarms, others know nothing",
        f"{_FOLDER}/lane.py",
        "            self._reasons[lane] = reason\n",
        "            pass\n",
        ("tests/gateway/test_failures.py::test_while_rabbitmq_is_short_of_memory_it_says_so",),
    ),
    Slip(
        "any login may store",
        f"{_FOLDER}/brokers.py",
        "    return same and login.user",
        "    return True or login.user",
        ("tests/gateway/test_outbox.py::test_no_login_but_the_row_s_may_store",),
    ),
    Slip(
        "headers may be as large as anybody likes",
        f"{_FOLDER}/protocol.py",
        "                if self._head_size > _LARGEST_HEAD:\n",
        "                if False:\n",
        ("tests/gateway/test_http.py::test_a_header_that_never_ends_is_not_kept",),
    ),
    Slip(
        "a request that has begun to come is cut off at the end",
        f"{_FOLDER}/protocol.py",
        "        if self._in_message:\n            # on_headers_complete() looks",
        "        if False:\n            # on_headers_complete() looks",
        (
            "tests/gateway/test_program.py"
            "::test_a_request_that_has_begun_to_come_is_answered_before_it_ends",
        ),
    ),
    Slip(
        "blanks around the body are cut off",
        f"{_FOLDER}/properties.py",
        "            body = value\n",
        "            body = value.strip()\n",
        ("tests/gateway/test_requests.py::test_any_bytes_are_a_body_of_a_form",),
    ),
    Slip(
        "a header holds an id as it is",
        f"{_FOLDER}/app.py",
        "    plain = message_id.isascii() and message_id.isprintable()\n",
        "    plain = True\n",
        (
            "tests/gateway/test_publishing.py"
            "::test_an_id_is_given_and_told_and_one_that_no_header_can_hold_is_encoded",
        ),
    ),
    Slip(
        "a process that has died is not replaced",
        f"{_FOLDER}/processes.py",
        "            self._begin_missing()\n            self._wait()",
        "            self._pids or self._begin_missing()\n            self._wait()",
        (
            "tests/gateway/test_program.py"
            "::test_processes_share_a_port_and_tell_the_sum_of_their_numbers",
        ),
    ),
]
