"""Where the outbox is read next, and how much: no server, and no clock."""

from __future__ import annotations

import random

import pytest

from pg_amqp_daemon.relay.reading import MOST_BYTES, MOST_ROWS, Plan, Reading, size_of
from pg_amqp_py.wire.fields import FIELDS
from pg_amqp_py.wire.waves import LARGEST_HEADERS, Entry

_HEADERS = FIELDS.index("headers")


def entry(number: int, body: bytes = b"", headers: str | None = None) -> Entry:
    """A message with this id."""
    fields: list[object] = [None] * len(FIELDS)
    fields[_HEADERS] = headers
    return Entry(number, None, tuple(fields), body)


def entries(first: int, last: int) -> list[Entry]:
    """Messages with all these ids."""
    return [entry(number) for number in range(first, last + 1)]


def sweep(plan: Plan, found: list[Entry], now: float = 0.0, seconds: float = 0.0) -> None:
    """Let it sweep, find this, and take so many seconds."""
    reading = plan.next(now, [])
    assert reading is not None
    assert reading.sweep
    plan.read(reading, found)
    plan.swept(now, now + seconds)


def forward(plan: Plan, now: float = 1.0) -> Reading:
    """What it reads next, with a run under way that begins at 1."""
    reading = plan.next(now, [[1]])
    assert reading is not None
    assert not reading.sweep
    return reading


# ---- Forward and from the beginning ----


def test_it_begins_at_the_beginning() -> None:
    reading = Plan().next(0.0, [])
    assert reading is not None
    assert (reading.after, reading.settled_id) == (None, -1)
    assert (reading.rows, reading.size) == (MOST_ROWS, MOST_BYTES)


def test_while_a_run_is_under_way_it_reads_what_is_behind_the_last_one() -> None:
    plan = Plan()
    sweep(plan, entries(5, 9))
    reading = plan.next(0.5, [[5, 6, 7, 8, 9]])
    assert reading is not None
    assert (reading.after, reading.settled_id) == (9, 4)
    plan.read(reading, entries(10, 12))
    assert plan.position == 12


def test_of_two_runs_under_way_it_waits_for_one() -> None:
    plan = Plan()
    sweep(plan, entries(1, 2))
    assert plan.next(0.5, [[1], [2]]) is None


def test_what_finds_nothing_leaves_the_position() -> None:
    plan = Plan()
    sweep(plan, entries(1, 7))
    plan.read(forward(plan), [])
    assert plan.position == 7


def test_a_sweep_that_finds_less_than_was_read_already_goes_on_where_that_ended() -> None:
    plan = Plan()
    sweep(plan, entries(1, 70))
    sweep(plan, entries(3, 4))
    assert plan.position == 70
    sweep(plan, [])
    assert plan.position == 70


def test_a_sweep_that_its_limit_cut_short_goes_on_where_it_ended() -> None:
    """Ten thousand messages and more were put back far behind what was read last."""
    plan = Plan()
    sweep(plan, entries(50_000, 50_001))
    sweep(plan, entries(1, MOST_ROWS))
    assert plan.position == MOST_ROWS
    assert forward(plan).after == MOST_ROWS


def test_a_sweep_that_was_cut_short_by_bytes_goes_on_where_it_ended() -> None:
    plan = Plan()
    sweep(plan, entries(500, 501))
    sweep(plan, [entry(1, b"x" * MOST_BYTES)])
    assert plan.position == 1


def test_a_session_begins_at_the_beginning() -> None:
    plan = Plan()
    sweep(plan, entries(1, 9), seconds=10.0)
    plan.begin()
    assert plan.position is None
    reading = plan.next(10.0, [])
    assert reading is not None
    assert reading.sweep


def test_ids_below_one_are_read_like_others() -> None:
    plan = Plan()
    reading = plan.next(0.0, [])
    assert reading is not None
    reading.begin_with(1)
    plan.read(reading, [entry(-3)])
    assert plan.position == -3
    plan.read(forward(plan), [entry(0)])
    assert plan.position == 0


# ---- When it sweeps ----


def test_a_sweep_comes_at_each_look_where_it_takes_no_time() -> None:
    plan = Plan()
    for now in (0.0, 0.01, 0.02):
        sweep(plan, [], now)


def test_sweeps_take_a_twentieth_of_the_time() -> None:
    plan = Plan()
    sweep(plan, entries(1, 3), now=100.0, seconds=2.0)
    for now in (102.0, 141.9):
        reading = plan.next(now, [])
        assert reading is not None
        assert (reading.after, reading.settled_id) == (3, 3)
    reading = plan.next(142.0, [])
    assert reading is not None
    assert reading.sweep


def test_a_sweep_waits_for_nothing_to_be_under_way_once_a_look_has_seen_something() -> None:
    plan = Plan()
    sweep(plan, entries(1, 3))
    assert plan.look(0.9, [[1]]) is None
    look = plan.look(1.0, [[1]])
    assert look is not None
    assert (look.sweep, look.settled_id, look.rows) == (True, -1, 500)
    plan.looked(1.0, 1.0, has_seen=False)
    assert forward(plan, now=1.0).after == 3
    assert plan.look(1.9, [[1]]) is None
    assert plan.look(2.0, [[1]]) is not None
    plan.looked(2.0, 2.0, has_seen=True)
    assert plan.next(2.0, [[1]]) is None
    sweep(plan, entries(1, 3), now=2.1)
    assert forward(plan, now=2.2).after == 3


def test_a_sweep_comes_every_ten_seconds_whatever_looks_see() -> None:
    plan = Plan()
    sweep(plan, entries(1, 3))
    plan.looked(9.0, 9.0, has_seen=False)
    assert plan.next(10.0, [[1]]) is not None
    assert plan.next(10.1, [[1]]) is None


def test_looks_take_a_twentieth_of_the_time_as_well() -> None:
    plan = Plan()
    sweep(plan, entries(1, 3), now=0.0, seconds=1.0)
    assert plan.look(20.9, [[1]]) is None
    assert plan.look(21.0, [[1]]) is not None
    plan.looked(21.0, 22.0, has_seen=False)
    assert plan.look(41.9, [[1]]) is None
    assert plan.look(42.0, [[1]]) is not None


# ---- How much it reads ----


def test_what_takes_too_long_is_read_in_smaller_pieces_and_these_grow_again() -> None:
    plan = Plan()
    reading = plan.next(0.0, [])
    assert reading is not None
    for rows in (1000, 100, 10, 1):
        assert plan.too_slow(reading)
        assert reading.rows == rows
    assert not plan.too_slow(reading)
    plan.read(reading, [entry(1)])
    sizes = []
    for _ in range(15):
        reading = forward(plan)
        sizes.append(reading.rows)
        plan.read(reading, [])
    assert sizes[:4] == [2, 4, 8, 16]
    assert sizes[-1] == MOST_ROWS


def test_the_one_that_cannot_be_read_is_found_by_reading_less() -> None:
    plan = Plan()
    reading = plan.next(0.0, [])
    assert reading is not None
    for rows in (1000, 100, 10, 1):
        assert reading.shrink()
        assert reading.rows == rows
    assert not reading.shrink()
    # Without that one, all the others.
    assert reading.rows == MOST_ROWS
    for rows in (10, 2):
        # As many as could be read in time.
        reading.begin_with(rows)
        assert reading.shrink()
        assert reading.rows == 1
        assert not reading.shrink()
    # It was no fault of the rest.
    plan.read(reading, [])
    assert forward_rows(plan) == MOST_ROWS


def forward_rows(plan: Plan) -> int:
    """How many rows it reads next."""
    reading = plan.next(0.0, [])
    assert reading is not None
    return reading.rows


def test_what_was_shrunk_counts_as_cut_short_at_what_it_was_shrunk_to() -> None:
    plan = Plan()
    sweep(plan, entries(5000, 5001))
    reading = plan.next(0.0, [])
    assert reading is not None
    assert reading.shrink()
    plan.read(reading, entries(1, 1000))
    assert plan.position == 1000


@pytest.mark.parametrize(
    ("rows", "size", "more_rows", "more_bytes"),
    [(0, 0, 0, 0), (7, 300, 7, 300), (1_000_000, 1 << 40, 100_000, 256 << 20)],
)
def test_a_sweep_reads_as_much_more_as_the_last_one_had_to_hide(
    rows: int, size: int, more_rows: int, more_bytes: int
) -> None:
    plan = Plan()
    sweep(plan, entries(1, 9))
    plan.hide(rows, size)
    reading = plan.next(0.0, [])
    assert reading is not None
    assert (reading.rows, reading.size) == (MOST_ROWS + more_rows, MOST_BYTES + more_bytes)
    plan.read(reading, [])
    # What is read forward hides nothing.
    ahead = forward(plan)
    assert (ahead.rows, ahead.size) == (MOST_ROWS, MOST_BYTES)


def test_the_size_of_messages_is_what_the_database_counts() -> None:
    assert size_of([entry(1, b"12345"), entry(2, b"", "{}")]) == 5 + LARGEST_HEADERS


# ---- Against a plain model ----


@pytest.mark.parametrize("seed", range(50))
def test_everything_is_read_wherever_it_appears(seed: int) -> None:
    chance = random.Random(seed)
    plan, outbox, under_way = Plan(), set[int](), list[list[int]]()
    now, last = 0.0, 0
    for step in range(400):
        now += chance.uniform(0.0, 0.6)
        if step < 200:
            # In front of everything, and far behind.
            last += chance.randrange(1, 50)
            busy = {number for run in under_way for number in run}
            outbox |= {last, *chance.sample(range(1, last + 1), min(last, 3))} - busy
        if plan.look(now, under_way) is not None:
            plan.looked(now, now, has_seen=chance.random() < 0.5)
        reading = plan.next(now, under_way)
        if reading is not None:
            if chance.random() < 0.2:
                reading.begin_with(chance.randrange(1, 5))
            busy = {number for run in under_way for number in run}
            if reading.sweep:
                # It would deliver it a second time.
                assert not busy
            behind = -1 if reading.after is None else reading.after
            ids = sorted(number for number in outbox if number > behind)[: reading.rows]
            assert not busy.intersection(ids)
            plan.read(reading, [entry(number) for number in ids])
            if reading.sweep:
                plan.swept(now, now + chance.choice((0.0, 0.001, 0.1)))
            if ids:
                under_way.append(ids)
        if under_way and chance.random() < 0.7:
            outbox.difference_update(under_way.pop(0))
    assert outbox == set()
