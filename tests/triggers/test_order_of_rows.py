"""The rows of a statement are published in its order, however many there are."""

from __future__ import annotations

from support.changes import publish_statements
from support.sessions import Session


def test_more_rows_of_an_update_than_fit_into_memory(session: Session) -> None:
    session.run("CREATE TABLE item (id integer, text text)")
    session.run("INSERT INTO item SELECT n, repeat('x', 100) FROM generate_series(1, 5000) AS n")
    publish_statements(session, "item")
    session.set(capture="on")
    # Old and new rows are joined by their hashes then, most of them in a second pass.
    session.run("SET work_mem = '64kB'; SET enable_mergejoin = off")
    with session.transaction():
        session.run("UPDATE item SET text = 'y'")
        found = session.run("SELECT (message::jsonb #>> '{new,id}')::integer FROM amqp.pending()")
    assert [number for (number,) in found] == list(range(1, 5001))
