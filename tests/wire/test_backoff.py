"""When to try again, without a server and without a clock."""

from __future__ import annotations

from pg_amqp_py.wire.backoff import Backoff


def test_what_has_not_failed_may_be_tried() -> None:
    assert Backoff(1.0, 30.0).wait(0.0) == 0.0


def test_the_first_failure_waits_the_first_delay() -> None:
    backoff = Backoff(1.0, 30.0)
    assert backoff.failed(100.0) == 1.0
    assert backoff.wait(100.0) == 1.0
    assert backoff.wait(100.25) == 0.75
    assert backoff.wait(101.0) == 0.0
    assert backoff.wait(500.0) == 0.0


def test_each_failure_doubles_the_delay_up_to_the_longest() -> None:
    backoff = Backoff(1.0, 10.0)
    now = 0.0
    delays = []
    for _ in range(6):
        delays.append(backoff.failed(now))
        now += backoff.wait(now)
    assert delays == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_attempts_before_the_time_has_come_count_as_one() -> None:
    backoff = Backoff(1.0, 30.0)
    backoff.failed(0.0)
    assert backoff.failed(0.5) == 1.0
    assert backoff.failed(1.25) == 1.0
    # From the last of them on.
    assert backoff.wait(1.25) == 1.0
    assert backoff.failed(2.25) == 2.0


def test_success_makes_the_next_delay_the_first() -> None:
    backoff = Backoff(1.0, 30.0)
    backoff.failed(0.0)
    backoff.failed(1.0)
    backoff.succeeded()
    assert backoff.wait(1.0) == 0.0
    assert backoff.failed(1.0) == 1.0


def test_a_loss_waits_and_makes_no_later_delay_longer() -> None:
    backoff = Backoff(0.1, 10.0)
    assert backoff.lost(5.0) == 0.1
    assert backoff.wait(5.0) == 5.1 - 5.0
    assert backoff.failed(6.0) == 0.1
    assert backoff.failed(7.0) == 0.2


def test_jitter_makes_the_wait_shorter_and_not_the_delay() -> None:
    factors = iter((0.5, 1.0, 0.75))
    backoff = Backoff(1.0, 30.0, lambda: next(factors))
    assert backoff.failed(0.0) == 0.5
    assert backoff.wait(0.0) == 0.5
    assert backoff.failed(0.5) == 2.0
    assert backoff.lost(2.5) == 0.75
