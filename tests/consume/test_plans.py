"""How PostgreSQL plans the statement that stores a batch: prepared while the stage is empty."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.sessions import Session, session_fixture
from support.storing import consume_into, message, storing

session = session_fixture()

TABLES = """
CREATE TABLE keyed (id integer PRIMARY KEY, note text);
CREATE TABLE wide (id integer PRIMARY KEY, {});
CREATE FUNCTION f(m amqp.message) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$
""".format(", ".join(f"c{n} text DEFAULT 'x'" for n in range(300)))

ROWS: dict[str, dict[str, Any]] = {
    "inbox": {},
    "function": {"target_function": "f"},
    "by names": {"target_table": "keyed"},
    "by columns": {"target_table": "keyed", "columns": {"id": "body.id", "note": "body.note"}},
    "update": {"target_table": "keyed", "on_conflict": "update"},
    "ignore": {"target_table": "keyed", "on_conflict": "ignore"},
    "no ledger": {"target_table": "keyed", "deduplicate_by": "none"},
    "ledger by the body": {"target_table": "keyed", "deduplicate_by": "body.id"},
    "wide": {"target_table": "wide"},
    "wide by columns": {
        "target_table": "wide",
        "columns": {"id": "body.id", **{f"c{n}": f"body.c{n}" for n in range(300)}},
    },
}
BATCH = {"amqp_stage", "keyed", "first", "fresh", "todo", "stored"}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All nodes of a plan."""
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


def reads_the_batch(plan: dict[str, Any]) -> bool:
    """Whether it goes through all messages, each time that it runs."""
    return any(
        node.get("CTE Name") in BATCH or node.get("Relation Name") == "amqp_stage"
        for node in nodes(plan)
    )


@pytest.mark.parametrize("kind", ROWS)
def test_no_message_is_looked_for_among_all_others(
    session: Session, database: str, kind: str
) -> None:
    """A loop over the batch within another one would take its square."""
    session.run(TABLES)
    consume_into(session, batch_size=32767, **ROWS[kind])
    with storing(database) as one:
        statement = one.look().statement
        ((found,),) = one.ask(f"EXPLAIN (FORMAT JSON) {statement}")
        (plan,) = json.loads(found) if isinstance(found, str) else found
        loops = [
            node
            for node in nodes(plan["Plan"])
            if node["Node Type"] == "Nested Loop" and all(map(reads_the_batch, node["Plans"]))
        ]
        assert loops == []
        done = one.put_on(*(message(json.dumps({"id": n}), message_id=f"{n}") for n in range(200)))
    assert done.stored == 200
