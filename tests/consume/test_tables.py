"""What consumers write into tables of every kind, and whose fault it is if they cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from pg_amqp_daemon.consume.batch import new_batch
from pg_amqp_daemon.consume.fault import fault_of
from pg_amqp_py.wire.consume.delivery import Delivery
from support.roles import role_fixtures
from support.sessions import Session, open_session, wait_for_event
from support.storing import ARRIVED, consume_into, counted, dead, message, storing

session, role, publisher, broker_id = role_fixtures()


def numbered(*numbers: int) -> list[Delivery]:
    return [message(json.dumps({"id": n})) for n in numbers]


def numbers(session: Session, table: str = "t") -> list[int]:
    return [n for (n,) in session.run(f"SELECT id FROM {table} ORDER BY id")]


# ---- Kinds of tables ----


@pytest.mark.parametrize(
    "make",
    [
        "CREATE TABLE t (id integer) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (2);"
        "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (2) TO (100)",
        "CREATE TABLE base (n integer); CREATE VIEW t AS SELECT n AS id FROM base",
        "CREATE TABLE base (n integer);"
        "CREATE VIEW t AS SELECT DISTINCT n AS id FROM base;"
        "CREATE FUNCTION i() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO base VALUES (NEW.id); RETURN NEW; END $$;"
        "CREATE TRIGGER i INSTEAD OF INSERT ON t FOR EACH ROW EXECUTE FUNCTION i()",
        "CREATE TABLE base (id integer); CREATE TABLE t () INHERITS (base)",
        "CREATE UNLOGGED TABLE t (id integer)",
        "CREATE TABLE t (id integer, must integer NOT NULL);"
        "CREATE FUNCTION i() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.must := 1; RETURN NEW; END $$;"
        "CREATE TRIGGER i BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION i()",
    ],
    ids=["partitioned", "view", "instead of", "inherits", "unlogged", "filled by a trigger"],
)
@pytest.mark.parametrize("named", [False, True])
def test_every_kind_of_table_takes_rows(
    session: Session, database: str, make: str, named: bool
) -> None:
    session.run(make)
    consume_into(session, "t", columns={"id": "body.id"} if named else None)
    with storing(database) as one:
        assert one.put(*numbered(1, 2, 3)).stored == 3
        done = one.put(message('{"id": "x"}'), *numbered(4))
    assert (done.stored, done.dead) == (1, 1)
    assert numbers(session) == [1, 2, 3, 4]


def test_a_row_that_no_partition_takes_is_set_aside(session: Session, database: str) -> None:
    session.run(
        """CREATE TABLE t (id integer PRIMARY KEY) PARTITION BY RANGE (id);
           CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10)"""
    )
    consume_into(session, "t", on_conflict="update")
    with storing(database) as one:
        one.put(*numbered(1, 10, 2, 1))
    assert (numbers(session), dead(session)) == ([1, 2], ["23514"])


def test_rules_that_leave_nothing_to_count_are_refused(session: Session) -> None:
    session.run("CREATE TABLE t (id integer); CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        consume_into(session, "t")


def test_rows_come_in_the_order_of_the_queue(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (nr serial, id integer)")
    consume_into(session, "t", batch_size=32767)
    consume_into(session, "t", name="named", columns={"id": "body.id"})
    for name in ("c", "named"):
        session.run("TRUNCATE t RESTART IDENTITY")
        with storing(database, name) as one:
            one.put(*numbered(*range(3000, 0, -1)))
        assert session.value("SELECT bool_and(nr + id = 3001) FROM t") is True


# ---- Whose fault ----


def test_a_key_that_is_there_is_the_message_s_own_fault(session: Session, database: str) -> None:
    session.run(
        """CREATE TABLE customers (id integer PRIMARY KEY);
           INSERT INTO customers VALUES (1);
           CREATE TABLE t (id integer REFERENCES customers DEFERRABLE INITIALLY DEFERRED,
                           note text CHECK (note <> 'no'), big text);
           CREATE INDEX ON t (big)"""
    )
    consume_into(session, "t")
    bodies = [
        '{"id": 1}',
        '{"id": 2}',
        '{"id": 1, "note": "no"}',
        '{"id": 1, "note": "yes"}',
        '{"id": 3}',
    ]
    session.run("ALTER TABLE t ALTER big SET STORAGE PLAIN")
    large = json.dumps({"id": 1, "big": "x" * 5000})
    with storing(database) as one:
        done = one.put(*map(message, bodies), message(large))
    assert (done.stored, done.dead) == (2, 4)
    assert dead(session) == ["23503", "23514", "23503", "54000"]


def test_a_deferred_trigger_refuses_rows_alone(session: Session, database: str) -> None:
    session.run(
        """CREATE TABLE t (id integer);
           CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               IF NEW.id % 2 = 1 THEN RAISE EXCEPTION 'odd' USING ERRCODE = 'AB123'; END IF;
               RETURN NULL; END $$;
           CREATE CONSTRAINT TRIGGER odd AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION odd()"""
    )
    consume_into(session, "t")
    with storing(database) as one:
        one.look()
        batch = new_batch(1, numbered(*range(40)), [ARRIVED] * 40)
        done = one.put_batch(batch)
        # All in one transaction.
        assert one.inbox.last_batch() == batch.id
    assert (done.stored, done.dead) == (20, 20)
    assert set(dead(session)) == {"AB123"}
    assert numbers(session) == list(range(0, 40, 2))


# What breaks the target, and what mends it.
BROKEN = {
    "dropped": (
        "DROP TABLE t",
        "CREATE TABLE t (id integer); UPDATE amqp.consumer SET target_table = 't';"
        "GRANT INSERT, SELECT ON t TO worker",
    ),
    "renamed column": ("ALTER TABLE t RENAME id TO nr", "ALTER TABLE t RENAME nr TO id"),
    "dropped column": ("ALTER TABLE t DROP id", "ALTER TABLE t ADD id integer"),
    "a column that must not be null": (
        "TRUNCATE t; ALTER TABLE t ADD must integer NOT NULL",
        "ALTER TABLE t ALTER must SET DEFAULT 1",
    ),
    "a column of another type": (
        "ALTER TABLE t ALTER id TYPE pg_lsn USING NULL",
        "ALTER TABLE t ALTER id TYPE integer USING NULL",
    ),
    "privilege": ("REVOKE INSERT ON t FROM worker", "GRANT INSERT ON t TO worker"),
    "schema": (
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
    ),
    "a rule": (
        "CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING",
        "DROP RULE r ON t",
    ),
}


@pytest.fixture
def worker(session: Session, database: str) -> str:
    """A role that may do what a daemon must, with table t; its connection string."""
    session.run(
        """CREATE TABLE t (id integer);
           CREATE ROLE worker LOGIN;
           GRANT USAGE ON SCHEMA amqp TO worker;
           GRANT INSERT, SELECT ON t TO worker;
           GRANT ALL ON ALL TABLES IN SCHEMA amqp TO worker"""
    )
    return f"{database} user=worker"


@pytest.fixture(autouse=True)
def no_worker_stays(database: str) -> Iterator[None]:
    """The role goes with the test."""
    yield
    with open_session(database) as session:
        if session.run("SELECT FROM pg_roles WHERE rolname = 'worker'"):
            session.run("DROP OWNED BY worker; DROP ROLE worker")


@pytest.mark.parametrize("how", BROKEN)
def test_what_the_target_does_not_take_is_no_message_s_fault(
    session: Session, worker: str, how: str
) -> None:
    breaks, mends = BROKEN[how]
    consume_into(session, "t", columns={"id": "body.id"})
    with storing(worker) as one:
        one.put(*numbered(1))
        session.run(breaks)
        for attempt in (numbered(2), [message("bad"), *numbered(3, 4)]):
            with pytest.raises(psycopg.Error):
                one.put_on(*attempt)
        assert dead(session) == []
        session.run(mends)
        done = one.put(*numbered(2), message("bad"), *numbered(3))
    assert (done.stored, done.dead) == (2, 1)
    assert counted(session)[0] == 3


@pytest.mark.parametrize("change", ["enabled = false", "queue = 'q2'", "prefetch = 5000"])
def test_a_row_that_has_changed_is_read_again_before_a_message_dies(
    session: Session, database: str, change: str
) -> None:
    session.run("CREATE SEQUENCE tried; CREATE TABLE t (id integer, nr integer)")
    session.run(
        """CREATE FUNCTION try() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN NEW.nr := nextval('tried'); RETURN NEW; END $$;
           CREATE TRIGGER try BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION try()"""
    )
    consume_into(session, "t", columns={"id": "body.id"})
    with storing(database) as one:
        one.look()
        session.run(f"UPDATE amqp.consumer SET {change}")
        with pytest.raises(psycopg.Error, match="has changed") as raised:
            one.put_on(*numbered(*range(50)), message('{"id": "x"}'))
        assert fault_of(raised.value) is None
    assert dead(session) == []
    # Nor is it looked for among the others.
    assert session.value("SELECT is_called FROM tried") is False


def test_a_column_that_must_be_filled_and_is_in_no_message_is_the_message_s_fault(
    session: Session, database: str
) -> None:
    session.run("CREATE TABLE t (id integer PRIMARY KEY)")
    consume_into(session, "t")
    session.run("ALTER TABLE t ADD COLUMN added text NOT NULL")
    with storing(database) as one:
        # What has a key of that name is stored.
        done = one.put(message('{"id": 1}'), message('{"id": 2, "added": "given"}'))
        assert (done.stored, done.dead) == (1, 1)
        assert dead(session) == ["23502"]
        session.run("ALTER TABLE t ALTER added SET DEFAULT 'default'")
        session.run("SELECT amqp.retry_dead_messages('c')")
        assert one.retry().stored == 1
    assert session.run("SELECT * FROM t ORDER BY id") == [(1, "default"), (2, "given")]
    assert dead(session) == []


def test_what_changes_while_messages_are_sifted_is_seen(session: Session, database: str) -> None:
    session.run(
        """CREATE FUNCTION f(m amqp.message) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
               IF m.message_id = 'bad' THEN RAISE 'no'; END IF;
               PERFORM pg_advisory_xact_lock(1); END $$"""
    )
    consume_into(session, "f(amqp.message)")
    raised: list[psycopg.Error] = []
    with storing(database) as one, ThreadPoolExecutor() as threads:
        one.look()
        ((pid,),) = one.ask("SELECT pg_backend_pid()")
        session.run("SELECT pg_advisory_lock(1)")

        def put() -> None:
            with pytest.raises(psycopg.Error) as found:
                one.put_on(message(message_id="bad"), message(message_id="waits"))
            raised.append(found.value)

        done = threads.submit(put)
        wait_for_event(session, pid, "advisory")
        session.run("UPDATE amqp.consumer SET batch_size = 7")
        session.run("SELECT pg_advisory_unlock(1)")
        done.result()
    assert [fault_of(error) for error in raised] == [None]
    assert dead(session) == []


def test_a_table_that_is_locked_is_waited_for(session: Session, worker: str) -> None:
    consume_into(session, "t")
    with storing(worker) as one, open_session(session.info.dsn) as other:
        one.look()
        other.run("BEGIN; LOCK TABLE t")
        with pytest.raises(psycopg.errors.LockNotAvailable) as raised:
            one.put_on(*numbered(1))
        assert fault_of(raised.value) is None
        other.run("COMMIT")
        assert one.put_on(*numbered(1)).stored == 1


def test_a_database_that_takes_no_writes_is_waited_for(session: Session, database: str) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    with storing(database) as one:
        one.look()
        one.ask("SET default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction) as raised:
            one.put_on(*numbered(1))
        assert fault_of(raised.value) is None
        one.ask("SET default_transaction_read_only = off")
        assert one.put_on(message("bad"), *numbered(1)).dead == 1


def test_the_probe_leaves_nothing_behind(session: Session, database: str) -> None:
    session.run(
        """CREATE TABLE t (id integer); CREATE TABLE noted (a integer);
           CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO noted VALUES (1); RETURN NULL; END $$;
           CREATE TRIGGER note AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION note()"""
    )
    consume_into(session, "t")
    with storing(database) as one:
        one.look()
        assert session.run("SELECT FROM noted") == []
        one.put(*numbered(1))
    assert session.run("SELECT a FROM noted") == [(1,)]


def test_a_message_that_blocks_all_others_is_found_among_many(
    session: Session, database: str
) -> None:
    session.run("CREATE TABLE t (id integer)")
    consume_into(session, "t")
    bad = {17, 18, 500, 999}
    messages = [message(b"\xff" if n in bad else json.dumps({"id": n})) for n in range(1000)]
    with storing(database) as one:
        done = one.put(*messages)
    assert (done.stored, done.dead) == (996, 4)
    assert numbers(session) == sorted({*range(1000)} - bad)
    assert counted(session)[0] == 996


# ---- Encodings ----


@pytest.fixture
def other(request: pytest.FixtureRequest, session: Session) -> Iterator[str]:
    """The connection string of a database of another encoding."""
    session.run(f"CREATE DATABASE other ENCODING '{request.param}' LOCALE 'C' TEMPLATE template0")
    yield f"{session.info.dsn} dbname=other"
    session.run("DROP DATABASE other WITH (FORCE)")


@pytest.mark.parametrize("other", ["LATIN1", "SQL_ASCII"], indirect=True)
def test_databases_of_other_encodings(request: pytest.FixtureRequest, other: str) -> None:
    latin = request.node.callspec.params["other"] == "LATIN1"
    with open_session(f"{other} client_encoding=UTF8") as session:
        session.run('CREATE EXTENSION pg_amqp_py CASCADE; CREATE TABLE t ("ä" text)')
        consume_into(session, "t", name="ü", queue="é", columns={"ä": 'body."ö"'})
        with storing(other, "ü") as one:
            done = one.put(message('{"ö": "ß"}'), message('{"ö": "€"}'), message(b'{"\xf6": 1}'))
        # What is not UTF-8 is never JSON.
        assert (done.stored, done.dead) == ((1, 2) if latin else (2, 1))
        assert dead(session, "sqlstate, body", "ü") == [
            *([("22P05", '{"ö": "€"}'.encode())] if latin else []),
            ("22021", b'{"\xf6": 1}'),
        ]
        assert session.run("SELECT * FROM t") == [("ß",), *([] if latin else [("€",)])]
        consume_into(session)
        with storing(other) as one:
            one.put(message(b"\xff", "größe", headers={"ä": "ö"}, message_id="ß"))
            one.put(message("", "€", app_id="", message_id="a"))
        rows = session.run("SELECT routing_key, headers ->> 'ä', message_id, body FROM amqp.inbox")
        assert rows[0] == ("größe", "ö", "ß", b"\xff")
        if latin:
            # Shown as it can be, kept as it came.
            assert dead(session, "sqlstate, routing_key, raw_place") == [
                ("22P05", "\\u20ac", b"\x06events\x03" + "€".encode())
            ]
        else:
            assert rows[1] == ("€", None, "a", b"")
