"""What is known of gaps: pure."""

from __future__ import annotations

from pg_amqp_daemon.listen.gaps import Account, Gap, Gaps
from support.deliveries import seeded


def test_a_gap_is_told_once() -> None:
    gaps = Gaps()
    gaps.owe(1, "dropped", "b")
    assert gaps.take(2, "z") == []
    assert gaps.take(1, "z") == [Gap(1, "dropped", "b", "z")]
    assert gaps.take(1, "z") == []


def test_a_gap_that_grows_begins_where_the_first_did() -> None:
    gaps = Gaps()
    for since in ("b", "a", "c"):
        gaps.owe(1, "dropped", since)
    gaps.owe(1, "postgres", "d")
    assert set(gaps.take(1, "z")) == {
        Gap(1, "dropped", "a", "z"),
        Gap(1, "postgres", "d", "z"),
    }


def test_what_nobody_knows_is_not_known_later() -> None:
    gaps = Gaps()
    gaps.owe(1, "start", None)
    gaps.owe(1, "start", "b")
    assert gaps.take(1, "z") == [Gap(1, "start", None, "z")]
    gaps.owe(1, "row", "b")
    gaps.owe(1, "row", None)
    assert gaps.take(1, "z") == [Gap(1, "row", None, "z")]


def test_a_clock_that_was_put_back_does_not_say_since_when() -> None:
    gaps = Gaps()
    gaps.owe(1, "postgres", "c")
    assert gaps.take(1, "b") == [Gap(1, "postgres", None, "b")]
    account = Account()
    account.begin("d")
    account.receive(1)
    before = account.epoch
    account.look("b")
    assert account.settled_until is None
    account.look("c")
    account.look("d")
    assert account.settled_until is None
    account.settle(before)
    assert account.settled_until == "c"


def test_rows_that_are_gone_have_no_gaps() -> None:
    gaps = Gaps()
    gaps.owe(1, "row", "a")
    gaps.owe(2, "row", "a")
    gaps.keep({2})
    assert gaps.take(1, "z") == []
    assert gaps.take(2, "z") != []


def test_a_gap_says_what_is_known() -> None:
    assert Gap(1, "row", None, "z").headers == {"gap-reason": "row", "gap-to": "z"}
    assert Gap(1, "row", "a", "z").headers == {
        "gap-reason": "row", "gap-from": "a", "gap-to": "z"
    }  # fmt: skip


def test_a_session_that_begins_knows_what_comes() -> None:
    account = Account()
    assert account.settled_until is None
    assert account.reached is None
    account.begin("c")
    assert account.settled_until == "c"
    assert account.reached == "c"


def test_what_is_not_settled_holds_the_time() -> None:
    account = Account()
    account.begin("a")
    account.look("b")
    epoch = account.epoch
    account.receive(2)
    for clock in "cdef":
        account.look(clock)
    # What is received behind one look may have been sent before it, but not before the look before.
    assert account.settled_until == "a"
    assert account.reached == "e"
    account.settle(epoch)
    assert account.settled_until == "a"
    assert account.open == 1
    account.settle(epoch)
    assert account.settled_until == "e"
    assert account.open == 0


def test_nothing_open_is_older_than_the_time_until_which_all_is_settled() -> None:
    rng = seeded()
    account = Account()
    account.begin("0000")
    open_epochs = []
    for number in range(1, 2000):
        match rng.randrange(3):
            case 0:
                account.look(f"{number:04}")
            case 1:
                count = rng.randint(1, 5)
                account.receive(count)
                open_epochs += [account.epoch] * count
            case 2 if open_epochs:
                account.settle(open_epochs.pop(rng.randrange(len(open_epochs))))
        oldest = min((str(epoch.since) for epoch in open_epochs), default=account.reached)
        assert account.settled_until == oldest
        assert account.open == len(open_epochs)
