"""What the catalogs say of the extension's objects: volatility, comments, grants."""

from __future__ import annotations

import re

from support.roles import role_fixtures
from support.sessions import Session

session, role, publisher, broker_id = role_fixtures()


def test_functions_are_volatile_and_parallel_unsafe(session: Session) -> None:
    rows = session.run(
        """SELECT p.oid::regprocedure::text, provolatile, proparallel, proleakproof
           FROM pg_depend JOIN pg_extension e ON refobjid = e.oid JOIN pg_proc p ON objid = p.oid
           WHERE deptype = 'e' AND extname = 'pg_amqp_py' AND classid = 'pg_proc'::regclass"""
    )
    assert len(rows) > 20
    pure = {
        f"amqp_inner.change_{what}"
        for what in ("routing_key", "properties", "topic", "mqtt_properties")
    } | {
        "amqp_inner.changed_rows",
        "amqp_inner.changed_rows_query",
        "amqp.stomp_address",
        "amqp.stomp_headers",
    }
    pure |= {
        f"amqp_inner.mqtt_{what}"
        for what in ("publish_key", "delivery_mode", "topic_fault", "qos_fault")
    } | {"amqp.mqtt_key", "amqp.mqtt_topic"}
    # What only looks at messages, rows and the catalogs.
    looks = re.compile(
        r"amqp\.(body_(text|json)|stomp_destination)\("
        r"|amqp_inner\.(consumer_(?!(check|try)\b)\w+|listener_(headers|message)|mqtt_headers)\("
    )
    # These have subtransactions, or settings of their own.
    reads = {f"amqp_inner.{what}" for what in ("outbox_due", "outbox_retained", "shown_text")}
    for function, volatility, parallel, leakproof in rows:
        assert not leakproof
        if function.partition("(")[0] in reads:
            assert (volatility, parallel) == ("s", "u")
        elif looks.match(function):
            assert (volatility, parallel) == ("s", "s"), function
        elif function.partition("(")[0] not in pure:
            assert (volatility, parallel) == ("v", "u"), function


def test_security_definer_functions_pin_the_search_path(session: Session) -> None:
    assert not session.run(
        """SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
           WHERE nspname IN ('amqp', 'amqp_inner') AND prosecdef
             AND NOT COALESCE('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)"""
    )


def test_every_object_has_a_comment(session: Session) -> None:
    rows = session.run(
        """WITH member AS (
               SELECT classid, objid FROM pg_depend JOIN pg_extension e ON refobjid = e.oid
               WHERE deptype = 'e' AND extname = 'pg_amqp_py')
           SELECT pg_describe_object(classid, objid, 0),
                  obj_description(objid, classid::regclass::text::name)
           FROM member
           -- Of the sequence's and the row types' own making nobody speaks.
           WHERE classid <> 'pg_type'::regclass
             AND NOT EXISTS (SELECT FROM pg_class c WHERE classid = 'pg_class'::regclass
                             AND c.oid = objid AND relkind = 'S')
           UNION ALL
           SELECT format('column %s.%s', attrelid::regclass, attname),
                  col_description(attrelid, attnum)
           FROM member JOIN pg_attribute ON attrelid = objid AND classid = 'pg_class'::regclass
           -- Those of the outbox are parameters of publish_outbox(), or of no use to anybody.
           WHERE attrelid = 'amqp.broker'::regclass AND attnum > 0 AND NOT attisdropped"""
    )
    assert len(rows) > 30
    assert [name for name, comment in rows if not comment and name != "schema amqp"] == []
    # psql shows a comment in one cell: lines of this width can be read there.
    assert [
        (name, line)
        for name, comment in rows
        if name.startswith("function")
        for line in comment.split("\n")
        if len(line) > 120
    ] == []
    assert session.value(
        "SELECT obj_description(oid) FROM pg_extension WHERE extname = 'pg_amqp_py'"
    )


def test_no_table_is_granted_to_anybody(session: Session) -> None:
    rows = session.run(
        """SELECT relname, grantee::regrole::text FROM pg_class, aclexplode(relacl)
           WHERE relnamespace = 'amqp'::regnamespace AND grantee <> relowner"""
    )
    assert rows == []
