"""pg_upgrade, which needs two PostgreSQLs, would not refuse a cluster because of anything here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.sessions import Session, open_session

# What it refuses in columns, also within other types: check_for_data_types_usage() and its list in
# src/bin/pg_upgrade/check.c.
REFUSED = """
WITH RECURSIVE refused (type) AS (
    SELECT t.oid FROM pg_type AS t
    WHERE t.typnamespace = 'pg_catalog'::regnamespace
      AND t.typname IN ('regcollation', 'regconfig', 'regdictionary', 'regnamespace', 'regoper',
                        'regoperator', 'regproc', 'regprocedure', 'aclitem', 'unknown', 'line')
    UNION
    SELECT x.type
    FROM refused AS r
    CROSS JOIN LATERAL (
        SELECT t.oid FROM pg_type AS t
        WHERE t.typtype = 'd' AND t.typbasetype = r.type OR t.typelem = r.type
        UNION ALL
        SELECT c.reltype FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE a.atttypid = r.type AND NOT a.attisdropped AND c.reltype <> 0
        UNION ALL
        SELECT g.rngtypid FROM pg_range AS g WHERE g.rngsubtype = r.type
    ) AS x (type)
)
SELECT a.attrelid::regclass::text, a.attname, a.atttypid::regtype::text
FROM pg_attribute AS a
JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'm', 'i')
JOIN refused AS r ON r.type = a.atttypid
WHERE NOT a.attisdropped
  AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
ORDER BY 1, 2
"""


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """A superuser's session."""
    with open_session(database) as session:
        yield session


def test_no_column_has_a_type_that_means_something_in_this_cluster_alone(session: Session) -> None:
    assert session.value("SELECT count(*) > 10 FROM pg_class WHERE relkind = 'r'") is True
    assert session.run(REFUSED) == []


def test_such_a_type_is_found_wherever_it_is(session: Session) -> None:
    session.run(
        """
        CREATE DOMAIN amqp.known AS regprocedure;
        CREATE TYPE amqp.pair AS (a integer, b amqp.known[]);
        CREATE TABLE amqp.plain (a regproc, b regclass, c regrole, d regtype);
        CREATE TABLE amqp.nested (a amqp.pair[])
        """
    )
    assert session.run(REFUSED) == [
        ("amqp.nested", "a", "amqp.pair[]"),
        ("amqp.plain", "a", "regproc"),
    ]
