"""Roles that share a session: what each may do and see, whoever was there before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.fix_servers import VHost
from support.sessions import Session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()

PENDING = "SELECT message FROM amqp.pending()"


@pytest.fixture
def roles(session: Session) -> Iterator[tuple[str, str]]:
    """Two roles that may publish."""
    names = "shop_one", "shop_two"
    for name in names:
        session.run(f"CREATE ROLE {name}; GRANT USAGE ON SCHEMA amqp TO {name}")
    yield names
    session.run("RESET SESSION AUTHORIZATION; RESET ROLE")
    for name in names:
        session.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.fixture
def broker_id(session: Session, broker: VHost) -> int:
    return session.add_broker(broker.url())


def publish(session: Session, broker_id: int, text: str) -> None:
    session.run("SELECT amqp.publish(%s, 'amq.topic', 'key', %s)", broker_id, text)


def test_pending_shows_what_the_caller_may_see(
    session: Session, roles: tuple[str, str], broker_id: int
) -> None:
    one, two = roles
    session.run("BEGIN")
    publish(session, broker_id, "superuser's")
    session.run(f"SET LOCAL ROLE {one}")
    publish(session, broker_id, "one's")
    session.run(f"SET LOCAL ROLE {two}")
    assert session.run(PENDING) == []
    publish(session, broker_id, "two's")
    session.run("SAVEPOINT a")
    session.run(f"SET LOCAL ROLE {one}")
    publish(session, broker_id, "rolled back")
    session.run("ROLLBACK TO a")
    publish(session, broker_id, "two's as well")
    assert session.run(PENDING) == [("two's",), ("two's as well",)]
    session.run(f"SET LOCAL ROLE {one}")
    assert session.run(PENDING) == [("one's",)]
    session.run("RESET ROLE")
    assert len(session.run(PENDING)) == 4
    session.run(f"GRANT {one} TO {two}; SET LOCAL ROLE {two}")
    assert len(session.run(PENDING)) == 3
    session.run("ROLLBACK")


def test_the_owner_of_the_broker_table_copies_nothing(
    session: Session, roles: tuple[str, str], broker_id: int
) -> None:
    """A policy of the table runs as its owner, in the transaction of whoever publishes."""
    one, two = roles
    session.run(
        f"""
        CREATE TABLE loot (message text);
        ALTER TABLE loot OWNER TO {one};
        CREATE FUNCTION steal() RETURNS boolean LANGUAGE sql AS
            'INSERT INTO public.loot SELECT message FROM amqp.pending(); SELECT true';
        ALTER TABLE amqp.broker OWNER TO {one};
        SET ROLE {one};
        ALTER TABLE amqp.broker ENABLE ROW LEVEL SECURITY;
        ALTER TABLE amqp.broker FORCE ROW LEVEL SECURITY;
        CREATE POLICY p ON amqp.broker USING (public.steal());
        RESET ROLE;
        """
    )
    try:
        session.run("BEGIN")
        session.run(f"SET LOCAL ROLE {two}")
        publish(session, broker_id, "secret")
        session.run("RESET ROLE; ALTER TABLE loot SET (fillfactor = 99)")
        session.run(f"SET LOCAL ROLE {two}")
        session.run("SELECT amqp.ping(%s)", broker_id)
        session.run("RESET ROLE")
        assert session.run("SELECT message FROM loot WHERE message = 'secret'") == []
        session.run("ROLLBACK")
    finally:
        session.run(
            "ROLLBACK; DROP POLICY p ON amqp.broker; DROP FUNCTION steal; DROP TABLE loot;"
            "ALTER TABLE amqp.broker NO FORCE ROW LEVEL SECURITY;"
            "ALTER TABLE amqp.broker DISABLE ROW LEVEL SECURITY;"
            "ALTER TABLE amqp.broker OWNER TO postgres"
        )


CALLS = {
    "publish": "amqp.publish({0}, 'amq.topic', 'key', 'x')",
    "autonomous_publish": "amqp.autonomous_publish({0}, 'amq.topic', 'key', 'x')",
    "exchange_declare": "amqp.exchange_declare({0}, 'amq.topic', 'topic', true, true)",
    "ping": "(SELECT true FROM amqp.ping({0}))",
    "pending": "(SELECT count(*) >= 0 FROM amqp.pending())",
    "status": "(SELECT count(*) >= 0 FROM amqp.status())",
    "disconnect": "amqp.disconnect({0}) IS NULL",
}


@pytest.mark.parametrize("call", CALLS)
def test_a_plan_of_another_role(
    session: Session, roles: tuple[str, str], broker_id: int, call: str
) -> None:
    """PostgreSQL looks at USAGE when a plan is made, and a session may keep it for all roles."""
    one, _ = roles
    session.run("CREATE ROLE nobody_at_all")
    text = CALLS[call].format(broker_id).replace("'", "''")
    session.run(
        "CREATE OR REPLACE FUNCTION planned() RETURNS boolean LANGUAGE plpgsql AS"
        f" 'BEGIN RETURN {text}; END'"
    )
    try:
        session.run(f"SET ROLE {one}")
        for _ in range(3):
            assert session.value("SELECT planned()") is not None
        session.run("SET ROLE nobody_at_all")
        error = session.error("SELECT planned()")
        assert (error.sqlstate, "permission denied for schema amqp" in error.message) == (
            "42501",
            True,
        )
        session.run(f"SET ROLE {one}")
        assert session.value("SELECT planned()") is not None
        session.run(f"RESET ROLE; REVOKE USAGE ON SCHEMA amqp FROM {one}; SET ROLE {one}")
        assert session.error("SELECT planned()").sqlstate == "42501"
        # No failure of publishing, to be tolerated.
        session.run("SET amqp.on_failure = warn")
        assert session.error("SELECT planned()").sqlstate == "42501"
    finally:
        session.run("RESET ROLE; RESET amqp.on_failure; DROP FUNCTION planned")
        session.run("DROP ROLE nobody_at_all")


def test_a_right_that_is_rolled_back(
    session: Session, roles: tuple[str, str], broker_id: int
) -> None:
    session.run("CREATE ROLE nobody_at_all")
    call = f"SELECT {CALLS['publish'].format(broker_id)}"
    try:
        session.run("PREPARE p AS " + call)
        session.run("EXECUTE p")
        for how in ("ROLLBACK", "ROLLBACK TO a"):
            session.run("BEGIN; SAVEPOINT a; GRANT USAGE ON SCHEMA amqp TO nobody_at_all")
            session.run("SET ROLE nobody_at_all")
            session.run(call)
            session.run(how)
            session.run("SET ROLE nobody_at_all")
            assert session.error(call).sqlstate == "42501"
            session.run("ROLLBACK; RESET ROLE")
    finally:
        session.run("RESET ROLE; DROP ROLE nobody_at_all")
