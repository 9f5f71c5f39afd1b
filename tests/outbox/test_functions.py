"""The functions of the outbox: what became of messages, dead letters, status, and space."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import errors

from support.calls import Call
from support.outbox import dead, grow, in_outbox, put, put_many, settle, status, table_size
from support.sessions import Session, open_session, wait_for_end, wait_for_event


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """A superuser's session in autocommit mode; there is no broker anywhere."""
    with open_session(database) as session:
        yield session


# ---- What became of messages ----


def test_what_was_delivered_goes(session: Session) -> None:
    ids = [put(session) for _ in range(3)]
    settle(session, delivered=ids[:2])
    assert in_outbox(session) == [(ids[2],)]
    # Reported twice, or of a row that was deleted by hand.
    settle(session, delivered=[*ids[:2], 10**12])
    assert in_outbox(session) == [(ids[2],)]
    assert session.execute("SELECT count(*) FROM amqp.outbox_delivered").fetchone() == (0,)


def test_what_was_delivered_is_kept_as_long_as_said(session: Session) -> None:
    first, second = put(session, "first"), put(session, "second")
    session.execute("SET amqp.keep_delivered = '1 hour'")
    settle(session, delivered=[first, second])
    kept = session.execute(
        "SELECT id, body, delivered_at <= clock_timestamp() FROM amqp.outbox_delivered ORDER BY id"
    ).fetchall()
    assert kept == [(first, b"first", True), (second, b"second", True)]
    assert in_outbox(session) == []
    session.execute(
        "UPDATE amqp.outbox_delivered SET delivered_at = delivered_at - interval '2 hours'"
        " WHERE id = %s",
        [first],
    )
    settle(session)
    left = session.execute("SELECT id FROM amqp.outbox_delivered").fetchall()
    assert left == [(second,)]
    session.execute("RESET amqp.keep_delivered")
    settle(session)
    assert session.execute("SELECT id FROM amqp.outbox_delivered").fetchall() == []


def test_what_was_refused_waits_longer_each_time(session: Session) -> None:
    number = put(session)
    for attempt, seconds in enumerate([1, 2, 4, 8, 16, 32, 64, 128, 256], start=1):
        settle(session, refused=[(number, "refused", f"error {attempt}")])
        ((attempts, error, wait),) = in_outbox(
            session, "attempts, last_error, next_attempt_at - clock_timestamp()"
        )
        assert (attempts, error) == (attempt, f"error {attempt}")
        # Spread by a quarter; less, because time has passed.
        assert timedelta(seconds=seconds) * 1.25 >= wait > timedelta(seconds=seconds * 0.75 - 10)
    assert dead(session) == []
    settle(session, refused=[(number, "refused", "the last")])
    assert dead(session, "id, attempts, last_error") == [(number, 10, "the last")]
    assert in_outbox(session) == []


def test_waits_are_spread_and_bounded(session: Session) -> None:
    put_many(session, 100)
    session.execute("UPDATE amqp.outbox SET attempts = 1000000")
    ids = [number for (number,) in in_outbox(session)]
    settle(session, refused=[(number, "busy", "full") for number in ids])
    waits = [wait for (wait,) in in_outbox(session, "next_attempt_at - clock_timestamp()")]
    assert len(set(waits)) > 90
    assert max(waits) <= timedelta(seconds=375)
    assert in_outbox(session, "attempts") == [(1000001,)] * 100


def test_what_is_busy_is_never_dead_and_what_is_invalid_is_at_once(session: Session) -> None:
    session.execute("SET amqp.max_attempts = 2")
    busy, invalid, refused = (put(session) for _ in range(3))
    settle(session, refused=[(invalid, "invalid", "no"), (busy, "busy", "later")])
    assert dead(session, "id, attempts, last_error") == [(invalid, 1, "no")]
    for _ in range(3):
        settle(session, refused=[(busy, "busy", "later")])
    settle(session, refused=[(refused, "refused", "why")])
    assert in_outbox(session, "id, attempts") == [(busy, 4), (refused, 1)]
    settle(session, refused=[(busy, "refused", "why"), (refused, "refused", "why")])
    assert [number for (number,) in dead(session)] == [busy, invalid, refused]


def test_settings_that_are_wrong_are_an_error(session: Session) -> None:
    number = put(session)
    session.execute("SET amqp.max_attempts = 'many'")
    with pytest.raises(errors.InvalidTextRepresentation):
        settle(session, refused=[(number, "refused", "why")])
    assert in_outbox(session, "attempts") == [(0,)]


# ---- Dead letters ----


@pytest.fixture
def letters(session: Session) -> list[int]:
    """Four dead letters: two of broker 1 and two of broker 2."""
    ids = [
        put(session, n, broker_id=n // 2 + 1, headers={"n": n}, ordering_key=str(n))
        for n in range(4)
    ]
    for number in ids:
        settle(session, refused=[(number, "invalid", f"error {number}")])
    return ids


def test_dead_letters_show_all_there_is(session: Session, letters: list[int]) -> None:
    columns = [
        {
            name
            for (name,) in session.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0",
                [table],
            )
        }
        for table in ("amqp.outbox_dead", "amqp.dead_letters")
    ]
    # The next attempt that there will not be, and a key that is for logical replication.
    assert columns[0] - columns[1] == {"next_attempt_at", "row_id"}
    assert columns[1] - columns[0] == {"message"}
    assert dead(session, "broker_id, body, last_error, headers, died_at IS NOT NULL") == [
        (n // 2 + 1, b"%d" % n, f"error {number}", {"n": n}, True)
        for n, number in enumerate(letters)
    ]


def call(session: Session, query: str, *values: object) -> int:
    row = session.execute(query, values).fetchone()
    assert row is not None
    number: int = row[0]
    return number


def test_dead_letters_are_retried_as_new(session: Session, letters: list[int]) -> None:
    columns = "id, broker_id, message_id, headers, body, ordering_key, created_at, last_error"
    before = dead(session, columns)
    assert call(session, "SELECT amqp.retry_dead_letters(2, %s)", letters[:3]) == 1
    assert call(session, "SELECT amqp.retry_dead_letters(1)") == 2
    assert [number for (number,) in dead(session)] == letters[3:]
    assert call(session, "SELECT amqp.retry_dead_letters(ids => %s)", letters[:3]) == 0
    assert call(session, "SELECT amqp.retry_dead_letters()") == 1
    assert in_outbox(session, columns) == before
    assert in_outbox(session, "attempts, next_attempt_at") == [(0, None)] * 4


def test_dead_letters_are_discarded(session: Session, letters: list[int]) -> None:
    assert call(session, "SELECT amqp.discard_dead_letters(1, %s)", letters[1:]) == 1
    assert call(session, "SELECT amqp.discard_dead_letters(ids => %s)", letters[2:3]) == 1
    assert [number for (number,) in dead(session)] == [letters[0], letters[3]]
    assert call(session, "SELECT amqp.discard_dead_letters(3)") == 0
    assert call(session, "SELECT amqp.discard_dead_letters()") == 2
    assert dead(session) == in_outbox(session) == []


# ---- Status ----


def test_status_counts_by_broker(session: Session) -> None:
    assert session.execute("SELECT * FROM amqp.outbox_status()").fetchall() == []
    session.execute("SELECT amqp.add_broker('amqp://nowhere.example')")
    nothing = {
        "broker_id": 1,
        "pending": 0,
        "waiting": 0,
        "oldest_age": None,
        "dead": 0,
        "delivered_last_minute": 0,
        "relay": None,
        "last_error": None,
        "last_error_at": None,
        "trouble": None,
        "retained": 0,
    }
    assert status(session) == nothing
    ids = [put(session) for _ in range(5)]
    put(session, deliver_at=datetime(2090, 1, 1, tzinfo=UTC))
    session.execute("UPDATE amqp.outbox SET created_at = now() - interval '1 hour' WHERE id = 2")
    settle(session, delivered=[ids[0]])
    settle(session, delivered=[ids[2]])
    settle(session, refused=[(ids[3], "invalid", "no"), (ids[4], "refused", "why")])
    now = status(session)
    assert timedelta(hours=1) <= now.pop("oldest_age") < timedelta(hours=2)
    assert datetime.now(UTC) - now.pop("last_error_at") < timedelta(minutes=10)
    assert now == {
        "broker_id": 1,
        "pending": 3,
        "waiting": 2,
        "dead": 1,
        "delivered_last_minute": 2,
        "relay": None,
        "last_error": "why",
        "trouble": None,
        "retained": 0,
    }
    # What is not due yet is not late.
    session.execute("DELETE FROM amqp.outbox WHERE next_attempt_at < '2089-01-01' OR id = 2")
    assert (status(session)["pending"], status(session)["oldest_age"]) == (1, None)
    # One without a row in amqp.broker, alive or dead.
    settle(session, refused=[(put(session, broker_id=-5), "invalid", "no")], broker_id=-5)
    put(session, broker_id=9)
    assert status(session, -5)["dead"] == 1
    assert status(session, 9)["pending"] == 1


def test_status_forgets_what_was_delivered_earlier(session: Session) -> None:
    settle(session, delivered=[put(session)])
    session.execute("UPDATE amqp.outbox_progress SET second = second - interval '2 minutes'")
    put(session)
    assert status(session)["delivered_last_minute"] == 0
    settle(session, delivered=[put(session)])
    assert status(session)["delivered_last_minute"] == 1
    assert session.execute("SELECT count(*) FROM amqp.outbox_progress").fetchone() == (1,)


def test_status_names_who_works_a_broker(database: str, session: Session) -> None:
    for broker_id in (1, -7, 2**31 - 1):
        put(session, broker_id=broker_id)
        with psycopg.connect(database, autocommit=True, application_name="the relay") as relay:
            pid = relay.info.backend_pid
            assert relay.execute("SELECT amqp_inner.outbox_lock(%s)", [broker_id]).fetchone() == (
                True,
            )
            assert status(session, broker_id)["relay"] == "the relay"
            # Others do not become it, nor deliver a batch; and no other lock is taken for it.
            query = "SELECT amqp_inner.outbox_lock(%s), amqp_inner.outbox_lock_batch(%s)"
            assert session.execute(query, [broker_id] * 2).fetchone() == (False, False)
            assert status(session, broker_id)["relay"] == "the relay"
        wait_for_end(session, pid)
        assert status(session, broker_id)["relay"] is None
        with session.transaction():
            assert session.execute(
                "SELECT amqp_inner.outbox_lock_batch(%s)", [broker_id]
            ).fetchone() == (True,)
            assert status(session, broker_id)["relay"] is None


def test_batches_wait_for_each_other(database: str, session: Session) -> None:
    with (
        open_session(database, autocommit=False) as first,
        open_session(database, autocommit=False) as second,
    ):
        query = "SELECT amqp_inner.outbox_lock_batch(1)"
        assert first.execute(query).fetchone() == (True,)
        # The session cannot become the relay while a batch is delivered.
        assert session.execute("SELECT amqp_inner.outbox_lock(1)").fetchone() == (False,)
        assert session.execute("SELECT amqp_inner.outbox_lock(2)").fetchone() == (True,)
        waiting = Call(lambda: second.execute(query).fetchone())
        wait_for_event(session, second.info.backend_pid, "transactionid")
        first.commit()
        assert waiting.result() == (True,)


# ---- Space ----


def compact(session: Session) -> bool:
    row = session.execute("SELECT amqp_inner.outbox_compact()").fetchone()
    assert row is not None
    done: bool = row[0]
    return done


def test_space_is_given_back_whatever_is_open(database: str, session: Session) -> None:
    assert not compact(session)
    with (
        open_session(database, autocommit=False) as reader,
        open_session(database, autocommit=False) as publisher,
    ):
        put(session, "seen by the reader")
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM amqp.broker")
        grow(session)
        session.execute("DELETE FROM amqp.outbox")
        session.execute("VACUUM amqp.outbox")
        assert table_size(session) > 64 << 20
        # One who has published and not yet committed is not waited for long, and loses nothing.
        number = put(publisher, "under way")
        assert not compact(session)
        publisher.commit()
        # What is alive would be gone for older snapshots.
        assert not compact(session)
        assert in_outbox(session) == [(number,)]
        settle(session, delivered=[number])
        assert compact(session)
        assert table_size(session) < 1 << 20
        assert put(session) > number
        assert not compact(session)


def lock_to_compact(session: Session) -> bool:
    row = session.execute("SELECT amqp_inner.outbox_lock_to_compact()").fetchone()
    assert row is not None
    locked: bool = row[0]
    return locked


def test_a_table_in_use_is_left_alone(session: Session) -> None:
    grow(session)
    put_many(session, 1001)
    assert not lock_to_compact(session)
    settle(session, delivered=[in_outbox(session)[0][0]])
    with session.transaction():
        assert lock_to_compact(session)
        held = session.execute(
            "SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND mode = 'AccessExclusiveLock'"
            " AND relation = 'amqp.outbox'::regclass"
        )
        assert held.fetchall()
    assert len(in_outbox(session)) == 1000
