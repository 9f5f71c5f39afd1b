"""Slips in the objects of the database: sql."""

from __future__ import annotations

from mutants.slip import Slip

SLIPS = [
    # What is due, settling, the lock, triggers, upgrades.
    Slip(
        "a batch delivers what its own transaction has published, and may yet roll back",
        "sql/outbox/functions/outbox_due.sql.in",
        "              AND (r.transaction_id <> pg_current_xact_id_if_assigned()) IS NOT FALSE\n",
        "",
        ("tests/outbox/test_due.py", "tests/outbox/test_batch.py"),
    ),
    Slip(
        "a message whose time has come overtakes a dead letter of its key",
        "sql/outbox/functions/outbox_due.sql.in",
        "amqp.outbox_dead AS e\n"
        + 26 * " "
        + "WHERE e.broker_id = outbox_due.broker_id AND e.ordering_key >= w.ordering_key",
        "amqp.outbox_dead AS e\n"
        + 26 * " "
        + "WHERE e.broker_id = outbox_due.broker_id AND e.ordering_key > w.ordering_key",
        ("tests/outbox/test_due.py",),
    ),
    Slip(
        "a message that was refused often waits for days",
        "sql/outbox/functions/outbox_settle.sql.in",
        "secs => least(300, power(2, least(o.attempts, 20))) *",
        "secs => power(2, least(o.attempts, 20)) *",
        ("tests/outbox/test_functions.py", "tests/outbox/test_limits.py"),
    ),
    Slip(
        "the trouble ends in spite of rows that somebody has locked",
        "sql/outbox/functions/outbox_settle.sql.in",
        "AND t.ended_at IS NULL AND done > 0 AND locked IS NULL;",
        "AND t.ended_at IS NULL AND done > 0;",
        ("tests/outbox/test_trouble.py",),
    ),
    Slip(
        "whoever settles goes on with a lock_timeout of 50 ms",
        "sql/outbox/functions/outbox_settle.sql.in",
        "    PERFORM set_config('lock_timeout', patience, true);\n",
        "",
        ("tests/outbox/test_what_is_left_behind.py",),
    ),
    Slip(
        "who does not become the one that works keeps the lock all the same",
        "sql/outbox/functions/outbox_lock.sql",
        "        PERFORM pg_advisory_unlock(tried);\n",
        "",
        ("tests/outbox/test_what_is_left_behind.py",),
    ),
    Slip(
        "the rows of an UPDATE are published in any order",
        "sql/triggers/functions/changed_rows_query.sql.in",
        "ON n.position OPERATOR(pg_catalog.=) o.position\n"
        "         ORDER BY n.position USING OPERATOR(pg_catalog.<)'",
        "ON n.position OPERATOR(pg_catalog.=) o.position'",
        ("tests/triggers/test_order_of_rows.py",),
    ),
    Slip(
        "whoever may not publish publishes by an inner function",
        "sql/outbox/functions/publish_outbox_change.sql",
        "    SELECT $1, $2, $3, convert_to($4, 'UTF8'), 'application/json'\n"
        "    WHERE CASE WHEN has_schema_privilege('amqp'::regnamespace, 'USAGE') THEN true"
        " ELSE amqp_inner.deny_publishing() END\n",
        "    SELECT $1, $2, $3, convert_to($4, 'UTF8'), 'application/json'\n",
        ("tests/security/test_privileges.py",),
    ),
    Slip(
        "an upgrade leaves an inner function in schema amqp",
        "sql/outbox/upgrades/1.3.0-before.sql",
        "ALTER FUNCTION amqp.outbox_wake(integer) SET SCHEMA amqp_inner;\n",
        "",
        ("tests/project/test_upgrade.py",),
    ),
    Slip(
        "errors of before the upgrade become troubles of now",
        "sql/outbox/upgrades/1.1.0-before.sql",
        "UPDATE amqp.outbox_trouble SET ended_at = pg_catalog.clock_timestamp();\n",
        "",
        ("tests/project/test_upgrade.py::test_update_from_1_1_0_keeps_every_message",),
    ),
]
