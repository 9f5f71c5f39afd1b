"""amqp_inner.outbox_due(): what of a broker's outbox may be delivered next."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from support.outbox import put, put_many, settle
from support.sessions import Session, open_session

pytestmark = pytest.mark.server

PAST = "2020-01-01 00:00:{:02}+00"
FUTURE = "2090-01-01 00:00:00+00"


@pytest.fixture(scope="module")
def shared(postgres_database: str) -> Iterator[Session]:
    """A session that all tests here share."""
    with open_session(postgres_database) as session:
        yield session


@pytest.fixture(scope="module")
def postgres_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database that all tests here share."""
    postgres = request.getfixturevalue("postgres")
    with open_session(postgres.dsn()) as admin:
        admin.execute("CREATE DATABASE outbox_due TEMPLATE template_amqp")
        yield postgres.dsn("outbox_due")
        admin.execute("DROP DATABASE outbox_due WITH (FORCE)")


@pytest.fixture
def session(shared: Session) -> Session:
    """A session with an empty outbox, in which ids begin at 1."""
    shared.execute("TRUNCATE amqp.outbox, amqp.outbox_dead")
    shared.execute("ALTER SEQUENCE amqp.outbox_id_seq RESTART")
    return shared


def due(
    session: Session,
    *,
    after: int | None = None,
    settled: int = -1,
    limit: int = 10_000,
    size: int = 1 << 23,
    broker_id: int = 1,
) -> list[int]:
    """Return the ids of what is due, in the order in which it is to be delivered."""
    found = session.execute(
        "SELECT id FROM amqp_inner.outbox_due(%s, %s::int8, %s, %s, %s)",
        [broker_id, after, settled, limit, size],
    )
    return [number for (number,) in found]


def kill(session: Session, *ids: int) -> None:
    """Make dead letters of these messages."""
    settle(session, refused=[(number, "invalid", "dead") for number in ids])


def lay(session: Session, *plan: str) -> None:
    """Publish one message for each part: a key, and when it is due (a second, inf, or ready)."""
    for part in plan:
        key, _, time = part.partition("@")
        put(
            session,
            ordering_key=key or None,
            deliver_at=None if not time else FUTURE if time == "inf" else PAST.format(int(time)),
        )


# ---- Without ordering keys ----


def test_in_order_of_id_and_behind_a_position(session: Session) -> None:
    lay(session, "", "", "", "")
    assert due(session) == [1, 2, 3, 4]
    assert due(session, after=2) == [3, 4]
    assert due(session, limit=2) == [1, 2]
    assert due(session, after=1, limit=2) == [2, 3]
    assert due(session, after=4) == []


def test_a_broker_sees_its_own(session: Session) -> None:
    for broker_id in (2, 1, 3, 2):
        put(session, broker_id=broker_id, ordering_key="same")
    session.execute("UPDATE amqp.outbox SET next_attempt_at = '2090-01-01+00' WHERE broker_id = 1")
    assert due(session) == []
    assert due(session, broker_id=2) == [1, 4]
    assert due(session, broker_id=2, after=1) == [4]
    assert due(session, broker_id=3) == [3]
    assert due(session, broker_id=4) == []
    for broker_id in (-(2**31), 2**31 - 1):
        number = put(session, broker_id=broker_id)
        assert due(session, broker_id=broker_id) == [number]


def test_what_waited_comes_among_the_others_when_read_from_the_beginning(session: Session) -> None:
    lay(session, "", "@5", "", "@inf", "@1")
    assert due(session) == [1, 2, 3, 5]
    assert due(session, after=0) == [1, 3]
    assert due(session, limit=1) == [1]
    session.execute("UPDATE amqp.outbox SET next_attempt_at = '0001-01-01+00' WHERE id = 4")
    assert due(session) == [1, 2, 3, 4, 5]
    session.execute("UPDATE amqp.outbox SET next_attempt_at = '2090-01-01+00'")
    assert due(session) == []


def test_bytes_are_limited_but_for_the_first(session: Session) -> None:
    for size in (1000, 10, 10, 1000, 10):
        put(session, b"x" * size)
    assert due(session, size=1) == [1]
    assert due(session, size=1000) == [1]
    assert due(session, size=1001) == [1, 2]
    assert due(session, size=1021) == [1, 2, 3, 4]
    assert due(session, after=1, size=21) == [2, 3, 4]
    put(session, b"")
    assert due(session, after=5, size=1) == [6]


def test_of_its_own_transaction_it_sees_nothing(session: Session) -> None:
    lay(session, "", "@1")
    with session.transaction():
        lay(session, "", "@1")
        with session.transaction():
            lay(session, "", "@1")
        assert due(session) == [1, 2]
    assert due(session) == [1, 2, 3, 4, 5, 6]


def test_a_timestamp_becomes_seconds(session: Session) -> None:
    far = "294276-12-31 23:59:59.999999+00"
    for value in (None, "1970-01-01+00", "2024-02-29 12:34:56.999+00", far):
        put(session, timestamp=value)
    found = session.execute('SELECT "timestamp" FROM amqp_inner.outbox_due(1, NULL, -1, 10, 1000)')
    assert [value for (value,) in found] == [None, 0, 1709210096, 9224318015999]


# ---- With ordering keys ----


def test_an_earlier_one_that_waits_holds_back_its_key(session: Session) -> None:
    lay(session, "a@inf", "a", "b", "", "a", "b@inf", "b", "c@1")
    assert due(session) == [3, 4, 8]
    assert due(session, after=1) == [3, 4]
    assert due(session, after=4) == []


def test_a_dead_one_holds_back_its_key(session: Session) -> None:
    lay(session, "a", "a", "b", "a@1", "b@1", "")
    kill(session, 1)
    assert due(session) == [3, 6]
    assert due(session, after=0) == [3, 6]
    # Of another broker, or later, it does not.
    session.execute("UPDATE amqp.outbox_dead SET broker_id = 2")
    assert due(session, after=0) == [2, 3, 6]
    session.execute("UPDATE amqp.outbox_dead SET broker_id = 1, id = 100")
    assert due(session, after=0) == [2, 3, 6]


def test_what_was_passed_over_holds_back_its_key(session: Session) -> None:
    """Ready and behind the position: it appeared late, or is under way and may yet fail."""
    lay(session, "a", "b", "a", "b", "a", "")
    assert due(session, after=2, settled=-1) == [3, 4, 5, 6]
    assert due(session, after=2, settled=0) == [3, 4, 5, 6]
    assert due(session, after=2, settled=1) == [4, 6]
    assert due(session, after=2, settled=2) == [6]


@pytest.mark.parametrize(
    ("plan", "first"),
    [
        # Each is due, and stands behind one whose time came before.
        (["a@1", "a@2", "a@3"], [1, 2, 3]),
        (["a@3", "a@2", "a@1"], [1]),
        (["a@1", "a@1", "a@1"], [1, 2, 3]),
        (["a@2", "a@1", "a@3"], [1]),
        (["a@1", "a@3", "a@2", "a@4"], [1, 2]),
        # What is ready waits for those that waited.
        (["a@1", "a"], [1]),
        (["a@1", "a", "a@2"], [1]),
        (["a", "a@1"], [1, 2]),
        (["a", "a@2", "a@1"], [1, 2]),
        (["a", "a@1", "a"], [1, 2]),
        # And for those that still wait.
        (["a@1", "a@inf", "a@2", "a"], [1]),
        (["a@inf", "a@1", "a"], []),
        (["a@1", "b@2", "a@3", "b@1"], [1, 2, 3]),
    ],
)
def test_a_chain_is_never_broken(session: Session, plan: list[str], first: list[int]) -> None:
    lay(session, *plan)
    found = due(session)
    # As many as can be found without reading much, and none in the place of one before it.
    assert found == first[: len(found)]
    assert bool(found) == bool(first)


def test_any_constellation_is_delivered_in_order(session: Session) -> None:
    choose = random.Random(1)
    for _ in range(150):
        session.execute("TRUNCATE amqp.outbox, amqp.outbox_dead")
        session.execute("ALTER SEQUENCE amqp.outbox_id_seq RESTART")
        times = ["", "@1", "@2", "@3", "@4", "@inf"]
        plan = [
            choose.choice(["a", "a", "b", ""]) + choose.choice(times)
            for _ in range(choose.randint(1, 9))
        ]
        lay(session, *plan)
        dead = {n for n in range(1, len(plan) + 1) if choose.random() < 0.05}
        kill(session, *dead)
        order: list[int] = []
        while found := due(session, limit=choose.choice([1, 2, 100])):
            order += found
            session.execute("DELETE FROM amqp.outbox WHERE id = ANY(%s)", [found])
        expected = set()
        for key in ("a", "b", ""):
            mine = [n for n, part in enumerate(plan, 1) if part.partition("@")[0] == key]
            stuck = [n for n in mine if n in dead or plan[n - 1].endswith("@inf")]
            free = [n for n in mine if not stuck or n < stuck[0]] if key else set(mine) - set(stuck)
            expected |= set(free)
            if key:
                delivered = [n for n in order if n in mine]
                assert delivered == sorted(delivered), (plan, dead, order)
        assert set(order) == expected, (plan, dead, order)


def test_a_long_backlog_of_one_key_is_read_at_the_same_cost(
    session: Session, postgres_database: str
) -> None:
    """Whatever stands before a message: delivered but not yet vacuumed, or not delivered yet."""
    for setting in (
        "enable_seqscan = off",
        "enable_bitmapscan = off",
        "enable_sort = off",
        "plan_cache_mode = force_generic_plan",
    ):
        session.execute(f"SET {setting}")
    with open_session(postgres_database, autocommit=False) as reader:
        put_many(session, 20_000, key="'key'")
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM amqp.broker")
        session.execute("DELETE FROM amqp.outbox WHERE id <= 10000")
        for after, settled in ((None, -1), (15_000, 10_000)):
            lines = session.execute(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
                " SELECT * FROM amqp_inner.outbox_due(1, %s::int8, %s, 1000, 1000000)",
                [after, settled],
            ).fetchone()
            assert lines is not None
            plan = lines[0][0]["Plan"]
            assert plan["Actual Rows"] == 1000
            # Over what was deleted once, and a few pages for each message.
            assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 30_000
