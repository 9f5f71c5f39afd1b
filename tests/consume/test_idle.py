"""What consumers ask the database while there is nothing to do, and that nothing new is missed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from pg_amqp_daemon.consume.news import News
from pg_amqp_daemon.runtime.database import Database
from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.relay import ConsumeProcess
from support.consumers import Desk
from support.patience import LIMIT
from support.sessions import Session, open_session
from support.storing import consume_into

_ROUNDS = 24
"""Looks for news: they take six seconds."""


def asked(postgres: PostgreSQL, since: int) -> Counter[str]:
    """How often each kind of statement was asked of the server since its log was so long."""
    found: Counter[str] = Counter()
    for line in postgres.log_text()[since:].splitlines():
        for kind, words in (
            ("news", "sha256(convert_to(ROW("),
            ("plan", "amqp_inner.consumer_plan("),
            ("proof", "SELECT 1"),
            ("forgetting", "amqp_inner.inbox_forget($1"),
        ):
            found[kind] += words in line
    return found


def test_idle_consumers_ask_for_little_more_than_a_proof(
    postgres: PostgreSQL, database: str, consumers: Desk
) -> None:
    several = [consumers() for _ in range(5)]
    session = several[0].session
    session.run("CREATE TABLE t (id integer)")
    several[0].change(target_table="t")
    name = session.value("SELECT current_database()")
    session.run(f"ALTER DATABASE {name} SET log_statement = 'all'")
    with ConsumeProcess(database) as daemon:
        daemon.wait_for_event("consuming", len(several))
        began = len(postgres.log_text())
        wait_for(lambda: asked(postgres, began)["news"] >= 8, LIMIT, "all to be at rest")
        began = len(postgres.log_text())
        wait_for(lambda: asked(postgres, began)["news"] >= _ROUNDS, LIMIT, "looks for news")
        found = asked(postgres, began)
    # Every ten seconds, which are forty rounds, all is looked at, come what may.
    assert found["plan"] * 8 <= found["news"] * len(several), found
    assert found["forgetting"] * 8 <= found["news"] * len(several), found
    assert found["proof"] > found["plan"]


CHANGES = [
    "UPDATE amqp.consumer SET batch_size = 7",
    "UPDATE amqp.consumer SET name = name",
    "ALTER TABLE s.t RENAME TO u",
    "ALTER SCHEMA s RENAME TO r",
    "ALTER TABLE s.t ADD COLUMN more text",
    "ALTER TABLE s.t ALTER a SET DEFAULT 'x'",
    "ALTER TABLE s.t ALTER b DROP DEFAULT",
    "ALTER TABLE s.t RENAME b TO c",
    "ALTER TABLE s.t ALTER a TYPE varchar(3)",
    "ALTER DOMAIN s.d SET DEFAULT 'y'",
    "ALTER TABLE s.t DROP CONSTRAINT t_pkey",
    "ALTER TABLE s.t ADD UNIQUE (a)",
    "CREATE TRIGGER g BEFORE INSERT ON s.t FOR EACH ROW EXECUTE FUNCTION s.g()",
    "ALTER FUNCTION s.f RENAME TO h",
    "UPDATE amqp.broker SET port = 1",
    "DELETE FROM amqp.broker",
    "SELECT amqp.rewind(c.name, 3) FROM amqp.consumer AS c",
    "UPDATE amqp.inbox_dead SET retry = true",
]


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """Of a database with a consumer into a table and one to a function."""
    with open_session(database) as session:
        session.run(
            """
            CREATE SCHEMA s;
            CREATE DOMAIN s.d AS text;
            CREATE TABLE s.t (id integer PRIMARY KEY, a text, b text DEFAULT 'x', d s.d);
            CREATE FUNCTION s.g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
            CREATE FUNCTION s.f(m amqp.message) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
            INSERT INTO amqp.broker (host) VALUES ('h');
            INSERT INTO amqp.inbox_dead (consumer, sqlstate, error, body, received_at, raw_place,
                raw_properties)
            SELECT c, 'P0001', 'once', '', now(), '\\x0000', '\\x0000'
            FROM unnest('{table,function}'::text[]) AS c
            """
        )
        consume_into(session, "s.t", name="table")
        consume_into(session, "s.f(amqp.message)", name="function")
        yield session


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_a_plan_is_made_of_is_news(session: Session, database: str, change: str) -> None:
    news = News()
    asking = Database(database, "test")

    def versions() -> tuple[str | None, ...]:
        assert news.ask(asking) == {"table", "function"}
        return news.version("table"), news.version("function")

    with asking.connected():
        before = versions()
        session.run("CREATE TABLE other (id integer); UPDATE pg_description SET description = ''")
        assert versions() == before
        assert None not in before
        session.run(change)
        assert versions() != before


def test_of_an_influxdb_and_without_rights_there_are_no_news(
    session: Session, database: str
) -> None:
    session.run("INSERT INTO amqp.influxdb (name, url, database) VALUES ('i', 'http://h', 'd')")
    consume_into(session, name="points", influxdb="i", measurement="m")
    session.run(
        "CREATE ROLE looks LOGIN; GRANT USAGE ON SCHEMA amqp TO looks;"
        " GRANT SELECT ON amqp.consumer TO looks"
    )
    try:
        for user, known in (("postgres", True), ("looks", False)):
            news = News()
            asking = Database(f"{database} user={user}", "test")
            with asking.connected():
                for _ in range(2):
                    assert news.ask(asking) == {"table", "function", "points"}
                assert news.version("points") is None
                assert (news.version("table") is not None) is known
    finally:
        session.run("DROP OWNED BY looks; DROP ROLE looks")
