"""An INSERT of many rows into a table whose changes are published by a trigger in one line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import cycle, islice

from bench.clock import in_turn, median
from bench.finding import Cell, Finding, Goal, Table
from bench.lab import Lab, Session, Spent, transaction
from bench.limit import Stream, encoded
from pg_amqp_py.wire.message import Envelope

_INSERT = """
INSERT INTO bench.{table}
SELECT i, 'customer ' || mod(i, 1000), mod(i, 10000) / 100.0, statement_timestamp()
FROM generate_series(1, %s) AS i
"""
_CREATE = """
CREATE TABLE bench.{table} (id bigint, customer text, total numeric, created_at timestamptz);
ALTER TABLE bench.{table} OWNER TO shop;
"""
_TRIGGER = """
CREATE TRIGGER publish AFTER INSERT ON bench.{table} {level}
EXECUTE FUNCTION amqp.publish_change('1', 'events')
"""
_BIND = "SELECT amqp.queue_{bind}(1, 'bench', 'events', 'bench.{table}.insert')"
_LEVELS = {
    "plain": "",
    "by_row": "FOR EACH ROW",
    "by_statement": "REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT",
}
_GOALS = {"by_row": 12.0, "by_statement": 6.0}
_SHOWN = {"by_row": "row trigger", "by_statement": "statement trigger"}
_ROLES = {"shop": "an ordinary role", "postgres": "the superuser"}
_SAMPLE = 1_000
_PENDING = "SELECT exchange, routing_key, content_type, message FROM amqp.pending()"


def measure(lab: Lab) -> Finding:
    """Without a trigger, with one for each row, with one for each statement; for two roles."""
    for table, level in _LEVELS.items():
        lab.session.execute(_CREATE.format(table=table).encode())
        if level:
            lab.session.execute(_TRIGGER.format(table=table, level=level).encode())
            lab.session.execute(_BIND.format(bind="bind", table=table).encode())
    with ExitStack() as stack:
        contestants: dict[str, Callable[[], Spent]] = {}
        for role in _ROLES:
            session = stack.enter_context(lab.connect(user=role))
            for table in _LEVELS:
                contestants[f"{role} {table}"] = partial(_insert, lab, session, table)
                contestants[f"{role} {table}"]()
        stream = _messages(lab)
        contestants["limit"] = lab.purged(lambda: Spent(0.0, lab.limit.publish(stream)))
        lab.say(f"triggers: INSERT of {lab.sizes.trigger_rows:,} rows")
        found = in_turn(lab.sizes.rounds, contestants)
    for table, level in _LEVELS.items():
        lab.session.execute(f"DROP TABLE bench.{table}".encode())
        if level:
            lab.session.execute(_BIND.format(bind="unbind", table=table).encode())
    return _finding(found, lab.sizes.trigger_rows)


def _insert(lab: Lab, session: Session, table: str) -> Spent:
    spent = transaction(session, _INSERT.format(table=table), lab.sizes.trigger_rows)
    session.execute(f"TRUNCATE bench.{table}".encode())
    lab.purge()
    return spent


def _messages(lab: Lab) -> Stream:
    """What the triggers publish, as bytes: some of it, again and again."""
    with lab.connect(user="shop", capture="on") as session, session.transaction():
        session.execute(_INSERT.format(table="by_row").encode(), [_SAMPLE])
        rows = session.execute(_PENDING.encode()).fetchall()
        sample = [
            (Envelope(exchange, key, content_type=kind), message.encode())
            for exchange, key, kind, message in rows
        ]
        session.execute("TRUNCATE bench.by_row")
    return encoded(islice(cycle(sample), lab.sizes.trigger_rows))


def _finding(found: dict[str, list[Spent]], count: int) -> Finding:
    def statement(name: str) -> float:
        return median(spent.statement for spent in found[name]) / count * 1e6

    def commit(name: str) -> float:
        return median(spent.commit for spent in found[name]) / count * 1e6

    limit = commit("limit")
    rows: list[list[Cell]] = []
    goals: list[Goal] = []
    for role, role_shown in _ROLES.items():
        plain = statement(f"{role} plain")
        rows.append([f"{role_shown}, no trigger", plain, None, commit(f"{role} plain"), None])
        for table, shown in _SHOWN.items():
            name = f"{role} {table}"
            beyond = statement(name) - plain
            rows.append(
                [
                    f"{role_shown}, {shown}",
                    statement(name),
                    beyond,
                    commit(name),
                    commit(name) - limit,
                ]
            )
            if role == "shop":
                figure = f"`publish_change`, {shown}: a row beyond the INSERT alone"
                beside = f"the INSERT: {plain:.1f} µs; the broker: {limit:.1f} µs"
                goals.append(Goal(figure, beyond, "µs", _GOALS[table], beside))
    rows.append(["the broker's limit for the same bytes", None, None, limit, None])
    columns = [
        "microseconds a row",
        "INSERT",
        "beyond that without trigger",
        "COMMIT",
        "beyond the broker's limit",
    ]
    caption = f"INSERT of {count:,} rows, medians"
    return Finding([Table(caption, columns, rows)], goals=goals)
