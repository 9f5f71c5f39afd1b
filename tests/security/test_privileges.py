"""Who may do what."""

from __future__ import annotations

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from support.queues import numbers_in, take
from support.roles import CLOSED, OPEN, role_fixtures
from support.sessions import Session, open_session

session, role, publisher, broker_id = role_fixtures()


TABLE = [
    "SELECT * FROM amqp.broker",
    "SELECT password FROM amqp.broker",
    "INSERT INTO amqp.broker (host) VALUES ('x')",
    "UPDATE amqp.broker SET host = 'x'",
    "DELETE FROM amqp.broker",
    "TRUNCATE amqp.broker",
    "SELECT nextval('amqp.broker_broker_id_seq')",
    "COPY amqp.broker TO STDOUT",
]


def test_role_with_nothing_may_do_nothing(
    database: str, broker_id: int, channel: BlockingChannel, role: str
) -> None:
    with open_session(database, role=role) as nobody:
        for query in [*OPEN.values(), *CLOSED.values()]:
            assert nobody.error(query, broker_id).sqlstate == "42501"
        for query in TABLE:
            assert nobody.error(query).sqlstate == "42501"
        nobody.run("CREATE TEMP TABLE t (n int)")
        create = f"""CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW
                     EXECUTE FUNCTION amqp.publish_change({broker_id}, 'events')"""
        assert nobody.error(create).sqlstate == "42501"
    assert take(channel, "events") == []


def test_usage_on_the_schema_is_the_right_to_publish(
    database: str, broker_id: int, channel: BlockingChannel, publisher: str
) -> None:
    with open_session(database, role=publisher) as somebody:
        for query in OPEN.values():
            somebody.run(query, broker_id)
        somebody.run("CREATE TEMP TABLE t (n int)")
        somebody.run(
            f"""CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW
                EXECUTE FUNCTION amqp.publish_change({broker_id}, 'events', 'key')"""
        )
        somebody.run("INSERT INTO t VALUES (1)")
        assert len(take(channel, "events", 3)) == 3
        # The rest is closed, and stays so in a session that has published.
        for query in TABLE:
            assert somebody.error(query).sqlstate == "42501"
        for query in CLOSED.values():
            assert somebody.error(query, broker_id).sqlstate == "42501"
        assert somebody.warnings() == []


@pytest.mark.parametrize("function", CLOSED)
def test_execute_alone_opens_a_closed_function(
    session: Session,
    database: str,
    broker_id: int,
    channel: BlockingChannel,
    publisher: str,
    function: str,
) -> None:
    channel.exchange_declare("e2", "fanout")
    session.run(f"GRANT EXECUTE ON FUNCTION amqp.{function} TO {publisher}")
    with open_session(database, role=publisher) as somebody:
        somebody.run(CLOSED[function], broker_id)
        for other in CLOSED:
            if other != function:
                assert somebody.error(CLOSED[other], broker_id).sqlstate == "42501"
        for query in TABLE:
            assert somebody.error(query).sqlstate == "42501"


def test_trigger_of_another_owner(
    session: Session, database: str, broker_id: int, channel: BlockingChannel, publisher: str
) -> None:
    session.run("CREATE TABLE orders (n int)")
    session.run(
        f"""CREATE TRIGGER x AFTER INSERT ON orders FOR EACH ROW
            EXECUTE FUNCTION amqp.publish_change({broker_id}, 'events')"""
    )
    session.run(f"GRANT INSERT ON orders TO {publisher}")
    with open_session(database, role=publisher) as somebody:
        somebody.run("INSERT INTO orders VALUES (1)")
    assert len(take(channel, "events", 1)) == 1


def test_rights_are_those_of_the_moment(
    session: Session, broker_id: int, channel: BlockingChannel, publisher: str
) -> None:
    """One session, several roles: what the superuser did opens nothing for the others."""
    session.publish(broker_id, "events", [1])
    session.run(f"SET ROLE {publisher}")
    session.publish(broker_id, "events", [2])
    assert session.error("SELECT password FROM amqp.broker").sqlstate == "42501"
    assert session.value("SELECT current_user") == publisher
    session.run("RESET ROLE")
    session.run(f"REVOKE USAGE ON SCHEMA amqp FROM {publisher}")
    session.run(f"SET ROLE {publisher}")
    assert session.error(OPEN["publish"], broker_id).sqlstate == "42501"
    session.run("RESET ROLE")
    assert numbers_in(channel, "events", 2) == [1, 2]


INNER = {
    "publish_change": "SELECT amqp_inner.publish_change(%s, 'events', 'key', '1')",
    "publish_outbox_change": "SELECT amqp_inner.publish_outbox_change(%s, 'events', 'key', '1')",
}


# With their bodies parsed, they need no USAGE on schema amqp to reach the outbox.
REACHING = {
    "outbox_due": "SELECT * FROM amqp_inner.outbox_due(1, NULL, -1, 9, 9)",
    "outbox_overdue": "SELECT amqp_inner.outbox_overdue(1)",
    "outbox_retained": "SELECT * FROM amqp_inner.outbox_retained(1, NULL, 9, 9)",
    "outbox_wake": "SELECT amqp_inner.outbox_wake(1)",
    "publish_outbox_change": "SELECT amqp_inner.publish_outbox_change(1, 'e', 'k', '1')",
}


def test_inner_functions_do_nothing_for_nobody(session: Session, database: str, role: str) -> None:
    found = session.run(
        """SELECT DISTINCT p.proname::text FROM pg_proc AS p
           JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
           WHERE p.pronamespace = 'amqp_inner'::regnamespace
             AND d.refclassid = 'pg_class'::regclass AND d.refobjid = 'amqp.outbox'::regclass
             AND p.prosqlbody IS NOT NULL"""
    )
    # That one only asks about privileges.
    assert {name for (name,) in found} - {"outbox_may_work", "outbox_table"} == REACHING.keys()
    with open_session(database, role=role) as nobody:
        for query in REACHING.values():
            assert nobody.error(query).sqlstate == "42501"


@pytest.mark.parametrize(
    "call",
    [
        "amqp_inner.publish_outbox_change(1, 'e', 'k', '1')",
        "amqp_inner.publish_outbox_change(1, 'e', 'k', '1', '{}', NULL)",
        "amqp.publish_outbox(1, 'e', 'k', '1')",
        "amqp.publish_outbox_mqtt(1, 't', '1')",
    ],
)
def test_a_view_opens_the_outbox_to_nobody(session: Session, role: str, call: str) -> None:
    """Nor does the plan that another role of the same session has made."""
    session.run(f"CREATE VIEW door AS SELECT {call} AS published")
    session.run("GRANT SELECT ON door TO PUBLIC")
    session.run("SELECT * FROM door")
    session.run(f"SET ROLE {role}")
    error = session.error("SELECT * FROM door")
    assert (error.sqlstate, error.message) == ("42501", "permission denied for schema amqp")
    session.run("RESET ROLE")
    assert session.value("SELECT count(*) FROM amqp.outbox") == 1


def test_nobody_puts_anything_into_the_inner_schema(
    session: Session, database: str, role: str
) -> None:
    session.run("DROP EXTENSION pg_amqp_py")
    session.run("ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC")
    session.run("CREATE EXTENSION pg_amqp_py")
    with open_session(database, role=role) as nobody:
        assert nobody.value("SELECT has_schema_privilege('amqp_inner', 'USAGE')")
        assert nobody.error("CREATE TABLE amqp_inner.t ()").sqlstate == "42501"


def test_inner_functions_are_no_way_around_usage(
    session: Session, database: str, broker_id: int, channel: BlockingChannel, role: str
) -> None:
    with open_session(database, role=role) as nobody:
        for query in INNER.values():
            assert nobody.error(query, broker_id).sqlstate == "42501"
        # That is no failure of publishing, to be tolerated.
        nobody.run("SET amqp.on_failure = warn; SET amqp.capture = on")
        assert nobody.error(INNER["publish_change"], broker_id).sqlstate == "42501"
        assert nobody.warnings() == []
        nobody.run("RESET ALL")
        session.run(f"GRANT USAGE ON SCHEMA amqp TO {role}")
        for query in INNER.values():
            nobody.run(query, broker_id)
        session.run(f"REVOKE USAGE ON SCHEMA amqp FROM {role}")
        for query in INNER.values():
            assert nobody.error(query, broker_id).sqlstate == "42501"
    assert take(channel, "events", 1) == ["1"]
    assert session.value("SELECT count(*) FROM amqp.outbox") == 1


@pytest.mark.parametrize("function", INNER)
def test_rights_of_triggers_are_those_of_the_moment(
    session: Session,
    database: str,
    broker_id: int,
    channel: BlockingChannel,
    publisher: str,
    function: str,
) -> None:
    """One session, two roles; rights that come and go with a transaction, and within one."""
    trigger = {"publish_change": "publish_change", "publish_outbox_change": "publish_change_outbox"}
    session.run("CREATE TABLE orders (n int); GRANT INSERT ON orders TO PUBLIC")
    session.run(
        f"""CREATE TRIGGER x AFTER INSERT ON orders FOR EACH ROW
            EXECUTE FUNCTION amqp.{trigger[function]}({broker_id}, 'events')"""
    )
    insert = "INSERT INTO orders VALUES (1)"
    as_publisher, as_nobody = f"SET LOCAL ROLE {publisher}", "SET LOCAL ROLE pg_monitor"

    session.run("BEGIN")
    session.run(insert)
    session.run(as_publisher)
    session.run(insert)
    session.run(as_nobody)
    assert session.error(insert).sqlstate == "42501"
    session.run("ROLLBACK")

    # A right that was never given.
    session.run("BEGIN; GRANT USAGE ON SCHEMA amqp TO pg_monitor")
    session.run(as_nobody)
    session.run(insert)
    session.run("ROLLBACK; BEGIN; SAVEPOINT s; GRANT USAGE ON SCHEMA amqp TO pg_monitor")
    session.run(as_nobody)
    session.run(insert)
    session.run("ROLLBACK TO s")
    session.run(as_nobody)
    assert session.error(insert).sqlstate == "42501"
    session.run("ROLLBACK; BEGIN")
    session.run(as_nobody)
    assert session.error(insert).sqlstate == "42501"
    session.run("ROLLBACK")

    # One that somebody else takes away meanwhile.
    with open_session(database, role=publisher) as somebody:
        somebody.run("BEGIN")
        somebody.run(insert)
        session.run(f"REVOKE USAGE ON SCHEMA amqp FROM {publisher}")
        assert somebody.error(insert).sqlstate == "42501"
        somebody.run("ROLLBACK")
    assert take(channel, "events") == []
    assert session.value("SELECT count(*) FROM amqp.outbox") == 0
