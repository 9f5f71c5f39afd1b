"""/health, the metrics and outbox_status() say what keeps messages from being delivered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from support.fix_servers import VHost
from support.health import WatchedRelay, watched
from support.messages import Inbox
from support.outbox import in_outbox, put, status, wait_until_empty, worker_of
from support.patience import LIMIT
from support.sessions import Session, open_session

TROUBLE = 'pg_amqp_trouble{broker_id="1"}'


def name_of(database: str) -> str:
    """Return the name of a database."""
    return str(conninfo_to_dict(database)["dbname"])


def in_trouble(relay: WatchedRelay, session: Session, text: str, *, noted: bool = True) -> None:
    """Wait until everybody who can be asked says that this is wrong; nothing takes it back."""

    def said() -> bool:
        answer = relay.health(503)
        return text in str(answer["brokers"].get("1")) and text in str(answer["last_error"])

    wait_for(said, LIMIT, f"/health to say {text}")
    wait_for(lambda: relay.metric(TROUBLE) == 1, LIMIT, "the metric")
    if noted:
        wait_for(lambda: text in str(status(session)["trouble"]), LIMIT, "outbox_status()")
    # Not between two attempts either.
    seen = [relay.health(503)["healthy"] for _ in range(200)]
    assert not any(seen)


def well_again(relay: WatchedRelay, session: Session) -> None:
    """Wait until everything is delivered, and everybody says that all is well."""
    wait_until_empty(session)
    wait_for(lambda: relay.health(200)["brokers"] == {"1": "leading"}, LIMIT, "/health")
    wait_for(lambda: status(session)["trouble"] is None, LIMIT, "outbox_status()")
    assert relay.metric(TROUBLE) == 0


@pytest.mark.parametrize("setting", ["keep_delivered = 'for ever'", "max_attempts = 'many'"])
def test_a_setting_that_makes_no_sense(database: str, session: Session, setting: str) -> None:
    session.execute(f"ALTER DATABASE {name_of(database)} SET amqp.{setting}".encode())
    put(session)
    with watched(database) as (relay, _):
        in_trouble(relay, session, "invalid input syntax")
        assert "invalid input syntax" in str(status(session)["last_error"])
        session.execute(
            f"ALTER DATABASE {name_of(database)} RESET amqp.{setting.split()[0]}".encode()
        )
        well_again(relay, session)


def test_a_setting_that_makes_no_sense_any_more(database: str, session: Session) -> None:
    """It changes while the relay works: its sessions are new after the next break."""
    with watched(database) as (relay, health):
        health(200)
        session.execute(f"ALTER DATABASE {name_of(database)} SET amqp.max_attempts = 'x'".encode())
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        in_trouble(relay, session, "invalid input syntax")


def test_a_database_that_is_read_only(database: str, session: Session) -> None:
    name = name_of(database)
    session.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    session.execute("SET default_transaction_read_only = off")
    put(session)
    with watched(database) as (relay, _):
        in_trouble(relay, session, "read-only transaction", noted=False)
        session.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only".encode())
        well_again(relay, session)


def test_a_publication_that_cannot_be_served(database: str, session: Session) -> None:
    session.execute("ALTER TABLE amqp.outbox REPLICA IDENTITY NOTHING")
    session.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    put(session)
    with watched(database) as (relay, _):
        in_trouble(relay, session, "does not have a replica identity")
        session.execute("ALTER TABLE amqp.outbox REPLICA IDENTITY DEFAULT")
        well_again(relay, session)


@pytest.fixture
def relay_role(postgres: PostgreSQL, session: Session) -> Iterator[str]:
    """The role that docs/how-to/outbox.md tells to create."""
    session.execute("CREATE ROLE amqp_health LOGIN")
    session.execute("GRANT USAGE ON SCHEMA amqp TO amqp_health")
    session.execute("GRANT SELECT ON amqp.broker TO amqp_health")
    session.execute("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON amqp.outbox TO amqp_health")
    session.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON amqp.outbox_dead, amqp.outbox_delivered,"
        " amqp.outbox_progress, amqp.outbox_trouble, amqp.outbox_lease TO amqp_health"
    )
    yield "amqp_health"
    session.execute("DROP OWNED BY amqp_health")
    session.execute("DROP ROLE amqp_health")


@pytest.mark.parametrize(
    "privilege", ["DELETE ON amqp.outbox", "UPDATE ON amqp.outbox", "INSERT ON amqp.outbox_dead"]
)
def test_a_missing_privilege(
    database: str, session: Session, relay_role: str, privilege: str
) -> None:
    put(session)
    session.execute(f"REVOKE {privilege} FROM {relay_role}".encode())
    with WatchedRelay(make_conninfo(database, user=relay_role)) as relay:
        assert isinstance(relay, WatchedRelay)
        in_trouble(relay, session, "permission denied for table outbox")
        session.execute(f"GRANT {privilege} TO {relay_role}".encode())
        well_again(relay, session)
        assert relay.terminate() == 0


def test_what_fails_only_with_messages_to_settle(
    database: str, session: Session, inbox: Inbox
) -> None:
    """An empty report goes well, so it must not make the relay think that all is well."""
    session.execute(
        """CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
           $$BEGIN RAISE EXCEPTION 'nobody deletes here'; END$$"""
    )
    session.execute(
        "CREATE TRIGGER forbid BEFORE DELETE ON amqp.outbox FOR EACH ROW EXECUTE FUNCTION forbid()"
    )
    with watched(database) as (relay, health):
        health(200)
        put(session, "once")
        in_trouble(relay, session, "nobody deletes here")
        session.execute("DROP TRIGGER forbid ON amqp.outbox")
        well_again(relay, session)
    assert inbox.texts() == ["once"]


@contextmanager
def locked_table(database: str, table: str) -> Iterator[None]:
    """Keep everybody away from a table."""
    with open_session(database, autocommit=False) as other:
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


@pytest.mark.slow
def test_a_table_that_somebody_has_locked(database: str, session: Session, inbox: Inbox) -> None:
    put(session)
    with locked_table(database, "amqp.outbox"), watched(database) as (relay, health):
        wait_for(lambda: "lock" in health(503)["brokers"].get("1", ""), LIMIT, "/health to say so")
    with watched(database) as (relay, _):
        well_again(relay, session)
    assert inbox.texts() == ["message"]


@pytest.mark.slow
def test_messages_for_no_broker(database: str, session: Session, inbox: Inbox) -> None:
    put(session, "lost", broker_id=7)
    text = "the broker has no row in amqp.broker"
    with watched(database) as (relay, health):
        expected = {"1": "leading", "7": text}
        wait_for(lambda: health(503)["brokers"] == expected, LIMIT, "/health to know it")
        assert relay.metric('pg_amqp_trouble{broker_id="7"}') == 1
        assert relay.metric(TROUBLE) == 0
        assert status(session, 7)["trouble"] == text
        put(session, "others")
        wait_for(lambda: len(in_outbox(session)) == 1, LIMIT, "the other to be delivered")
        session.execute("DELETE FROM amqp.outbox")
        health(200)
        assert relay.metric('pg_amqp_trouble{broker_id="7"}') is None
    assert inbox.texts() == ["others"]


@pytest.mark.slow
def test_a_broker_that_loses_its_row(database: str, session: Session) -> None:
    with watched(database) as (relay, health):
        wait_for(lambda: worker_of(session) == relay.pid, LIMIT, "the relay to work")
        leading = 'pg_amqp_leading{broker_id="1"}'
        wait_for(lambda: relay.metric(leading) == 1, LIMIT, "the metric")
        assert relay.metric('pg_amqp_delivered_total{broker_id="1"}') == 0
        session.execute("DELETE FROM amqp.broker")
        # What looks at all brokers stays.
        workers = r"""SELECT FROM pg_stat_activity WHERE datname = current_database()
                      AND application_name ~ '^pg-amqp (?!.*\((brokers|lookout)\))'"""
        wait_for(lambda: not session.run(workers), LIMIT, "nobody to work it")
        assert relay.metric(leading) is None
        put(session)
        assert health(503)["brokers"] == {"1": "the broker has no row in amqp.broker"}


def test_a_broker_that_is_away_is_trouble_until_it_is_back(
    database: str, session: Session, broker: VHost
) -> None:
    session.execute("UPDATE amqp.broker SET username = 'nobody'")
    put(session)
    with watched(database) as (relay, _):
        in_trouble(relay, session, "ACCESS_REFUSED")
        session.execute("UPDATE amqp.broker SET username = 'guest'")
        well_again(relay, session)
        assert "ACCESS_REFUSED" in relay.health(200)["last_error"]


def test_whoever_stands_by_is_well_as_long_as_another_one_works(
    database: str, session: Session
) -> None:
    session.execute("UPDATE amqp.broker SET username = 'nobody'")
    with watched(database) as (first, _):
        wait_for(lambda: worker_of(session) == first.pid, LIMIT, "the first to work")
        put(session)
        in_trouble(first, session, "ACCESS_REFUSED")
        with watched(database) as (second, health):
            second.wait_for_event("standing by: another relay works this outbox")
            assert health(200)["brokers"] == {"1": "standing by"}


@pytest.mark.slow
def test_whoever_cannot_get_the_lock_is_not_well_while_messages_are_due(
    database: str, session: Session
) -> None:
    """The watching session of a relay sees that nobody works the outbox."""
    text = "messages are due and no relay works them"
    put(session)
    session.execute("UPDATE amqp.outbox SET created_at = now() - interval '1 hour'")
    # Nobody gets the lock, and nobody has it.
    session.execute(
        """CREATE OR REPLACE FUNCTION amqp_inner.outbox_lock(broker_id integer) RETURNS boolean
           LANGUAGE sql VOLATILE RETURN false"""
    )
    with watched(database) as (relay, health):
        wait_for(lambda: text in str(health(503)), LIMIT, "/health to say so")
        assert health(503)["brokers"] == {"1": text}
        assert relay.metric(TROUBLE) == 1
        session.execute("DELETE FROM amqp.outbox")
        assert health(200)["brokers"] == {"1": "standing by"}
