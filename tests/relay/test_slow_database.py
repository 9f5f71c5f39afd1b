"""A database that takes its time with each row: less is asked of it at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg.conninfo import make_conninfo

from servers.relay import RelayProcess
from support.messages import Inbox
from support.outbox import put_many, wait_until_empty
from support.sessions import Session

MESSAGES = 9_000


@pytest.fixture
def slow(database: str, session: Session) -> Iterator[str]:
    """The connection string of a role for which every row that it reads takes a millisecond."""
    session.execute("CREATE ROLE amqp_slow LOGIN")
    session.execute("GRANT USAGE ON SCHEMA amqp TO amqp_slow")
    session.execute("GRANT ALL ON ALL TABLES IN SCHEMA amqp TO amqp_slow")
    session.execute(
        """CREATE FUNCTION slow(bigint) RETURNS boolean LANGUAGE plpgsql COST 1000000 AS
           $$BEGIN
               IF current_query() LIKE '%outbox_due%' THEN PERFORM pg_sleep(0.001); END IF;
               RETURN true;
           END$$"""
    )
    session.execute("ALTER TABLE amqp.outbox ENABLE ROW LEVEL SECURITY")
    session.execute("CREATE POLICY slow ON amqp.outbox USING (slow(id))")
    yield make_conninfo(database, user="amqp_slow")
    session.execute("DROP OWNED BY amqp_slow")
    session.execute("DROP ROLE amqp_slow")


@pytest.mark.slow
def test_a_reading_that_takes_too_long_reads_less(
    session: Session, inbox: Inbox, slow: str
) -> None:
    put_many(session, MESSAGES)
    with RelayProcess(slow) as relay:
        wait_until_empty(session)
        assert relay.events("database not usable") == []
        assert relay.terminate() == 0
    assert sorted(map(int, inbox.texts())) == list(range(1, MESSAGES + 1))
