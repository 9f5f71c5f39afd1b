"""What a role learns of the outbox without a grant, or with USAGE on the schema alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

from support.outbox import put
from support.sessions import Session, open_session

SEQUENCE = "(SELECT oid FROM pg_class WHERE relname = 'outbox_id_seq')::regclass"


@pytest.fixture(params=[False, True], ids=["nobody", "publisher"])
def somebody(request: pytest.FixtureRequest, session: Session, database: str) -> Iterator[Session]:
    """A role without any grant, or with the right to publish; the outbox has been analyzed."""
    for number in range(100):
        put(session, broker_id=number % 3 + 1, deliver_at="2090-01-01+00")
    session.execute("ANALYZE amqp.outbox; CREATE ROLE somebody LOGIN")
    if request.param:
        session.execute("GRANT USAGE ON SCHEMA amqp TO somebody")
    with open_session(make_conninfo(database, user="somebody")) as somebody:
        yield somebody
    session.execute("DROP OWNED BY somebody; DROP ROLE somebody")


@pytest.mark.parametrize(
    "query",
    [
        f"SELECT nextval({SEQUENCE})",
        f"SELECT currval({SEQUENCE})",
        f"SELECT setval({SEQUENCE}, 1)",
    ],
)
def test_the_sequence_is_nobodys(somebody: Session, query: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        somebody.execute(query.encode())


def test_views_of_the_catalog_show_nothing(somebody: Session) -> None:
    for query in (
        "SELECT last_value FROM pg_sequences WHERE schemaname = 'amqp' AND last_value IS NOT NULL",
        "SELECT * FROM pg_stats WHERE schemaname = 'amqp'",
        "SELECT * FROM pg_stats_ext WHERE schemaname = 'amqp'",
    ):
        assert somebody.execute(query.encode()).fetchall() == []


def test_whoever_may_publish_draws_ids(somebody: Session, session: Session) -> None:
    (usage,) = somebody.execute("SELECT has_schema_privilege('amqp', 'USAGE')").fetchone() or ()
    if not usage:
        with pytest.raises(errors.InsufficientPrivilege):
            put(somebody)
        return
    assert put(somebody) == 101
    with pytest.raises(errors.InsufficientPrivilege):
        somebody.execute("INSERT INTO amqp.outbox (broker_id, transaction_id) VALUES (1, '1')")
    with pytest.raises(errors.InsufficientPrivilege):
        somebody.execute("SELECT transaction_id FROM amqp.outbox")
    assert put(session) == 102
