"""examples/live/table.js: whatever order and number changes arrive in, it ends as the table is."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from selenium import webdriver

from demo.live import config, serve

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("PG_AMQP_PY_SEED", random.randrange(2**32)))
HISTORIES = 400

_PLAY = """
const [address, steps, done] = arguments;
import(address + "table.js").then(({ Table }) => {
    const ends = steps.map((history) => {
        const table = new Table();
        const told = [];
        let shown = new Map();
        const tell = (one) => {
            told.push([one.operation, one.key, one.row?.version ?? 0].join(" "));
            if (one.operation === "delete") shown.delete(one.key);
            else if (one.row) shown.set(one.key, one.row);
        };
        for (const [what, given] of history) {
            if (what === "begin") table.begin();
            else if (what === "load" && !table.isLoaded) {
                shown = new Map(given.rows.map((row) => [row.id, row]));
                table.load(given.snapshot, given.rows).forEach(tell);
            } else if (what === "take") table.take(given).forEach(tell);
        }
        const sorted = (rows) => [...rows.values()].sort((a, b) => a.id - b.id);
        return { rows: sorted(table.rows), shown: sorted(shown), told };
    });
    done(ends);
}, (error) => done(String(error)));
"""


@dataclass
class Transaction:
    """One that is under way: its id, the rows that it has locked, and what it will publish."""

    number: int
    rows: dict[int, dict[str, Any] | None] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)


class Database:
    """Some concurrent transactions, as PostgreSQL would run them, and what they publish."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.rows: dict[int, dict[str, Any]] = {}
        self.next_transaction = 700
        self.version = 0
        self.next_id = 1
        self.open: list[Transaction] = []
        #: Messages of transactions that are visible and have not published yet.
        self.unsent: list[dict[str, Any]] = []

    def step(self) -> Iterator[dict[str, Any]]:
        """Let something happen; yields what is published by it."""
        kind = self.chance.random()
        if kind < 0.15 or not self.open:
            self.open.append(Transaction(self.next_transaction))
            self.next_transaction += 1
        elif kind < 0.6:
            self._change(self.chance.choice(self.open))
        elif kind < 0.8:
            self._end(self.open.pop(self.chance.randrange(len(self.open))))
        elif self.unsent:
            # Not the order in which they committed: each session publishes when it comes to it.
            message = self.unsent.pop(self.chance.randrange(len(self.unsent)))
            yield message
            if self.chance.random() < 0.2:
                self.unsent.append(message)

    def finish(self) -> Iterator[dict[str, Any]]:
        """Let everything end and be published."""
        while self.open:
            self._end(self.open.pop())
        self.chance.shuffle(self.unsent)
        yield from self.unsent

    def snapshot(self) -> dict[str, Any]:
        """What live_snapshot() answers."""
        running = [transaction.number for transaction in self.open]
        first = min(running, default=self.next_transaction)
        text = f"{first}:{self.next_transaction}:{','.join(map(str, sorted(running)))}"
        return {"snapshot": text, "rows": [dict(row) for row in self.rows.values()]}

    def _change(self, own: Transaction) -> None:
        locked = {key for other in self.open if other is not own for key in other.rows}
        seen = {**self.rows, **own.rows}
        keys = [key for key, row in seen.items() if row is not None and key not in locked]
        kind = self.chance.choice(["insert", "update", "update", "delete", "move"])
        if kind == "insert" or not keys:
            kind, old = "insert", None
        else:
            old = seen[self.chance.choice(keys)]
        new: dict[str, Any] | None = None
        if kind != "delete":
            self.version += 1
            key = old["id"] if kind == "update" and old else self._unused(own, seen)
            new = {"id": key, "version": self.version, "text": self.chance.choice("ab")}
        change = {"operation": "update" if kind == "move" else kind, "old": old, "new": new}
        own.changes.append({**change, "changed": [], "transaction_id": own.number})
        if old:
            own.rows[old["id"]] = None
        if new:
            own.rows[new["id"]] = new

    def _unused(self, own: Transaction, seen: dict[int, dict[str, Any] | None]) -> int:
        """A key that no row has: a new one, or that of a row that was deleted."""
        locked = {key for other in self.open if other is not own for key in other.rows}
        free = [key for key in range(1, self.next_id) if not seen.get(key) and key not in locked]
        if free and self.chance.random() < 0.3:
            return self.chance.choice(free)
        self.next_id += 1
        return self.next_id - 1

    def _end(self, own: Transaction) -> None:
        if self.chance.random() < 0.2:
            return  # Rolled back.
        for key, row in own.rows.items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        self.unsent += own.changes


def history(chance: random.Random) -> tuple[list[tuple[str, Any]], list[dict[str, Any]]]:
    """What a page meets, and how the table is in the end."""
    database = Database(chance)
    steps: list[tuple[str, Any]] = []
    for _ in range(chance.randrange(40)):
        for _ in database.step():
            pass  # Before the page was there.
    for _ in range(chance.randint(1, 3)):
        steps.append(("begin", None))
        for asked in (False, True):
            for _ in range(chance.randrange(25)):
                steps += [("take", message) for message in database.step()]
            if not asked:
                answer = database.snapshot()
        steps += [("load", answer)] * chance.randint(1, 2)
        for _ in range(chance.randrange(25)):
            steps += [("take", message) for message in database.step()]
    steps += [("take", message) for message in database.finish()]
    return steps, sorted(database.rows.values(), key=lambda row: int(row["id"]))


@pytest.fixture
def play(browser: webdriver.Chrome) -> Iterator[Any]:
    """Has histories played in the browser."""
    with serve(config(1)) as address:
        browser.get(f"{address}icon.svg")
        browser.set_script_timeout(120)
        yield lambda steps: browser.execute_async_script(_PLAY, address, steps)
        browser.get("about:blank")


def test_any_history_of_concurrent_transactions_ends_as_the_table_is(play: Any) -> None:
    print(f"PG_AMQP_PY_SEED={SEED}")
    chance = random.Random(SEED)
    histories = [history(chance) for _ in range(HISTORIES)]
    ends = play([steps for steps, _ in histories])
    for end, (steps, rows) in zip(ends, histories, strict=True):
        assert end["rows"] == end["shown"] == rows, steps
    for end in ends:
        # Each change is told once: those of one version of a row are its last and its removal.
        assert len(end["told"]) == len(set(end["told"]))
    assert sum(len(end["told"]) for end in ends) > HISTORIES


def test_it_forgets_what_was_deleted_by_reading_the_table_again(play: Any) -> None:
    def delete(number: int) -> dict[str, Any]:
        row = {"id": number, "version": number}
        return {"operation": "delete", "old": row, "new": None, "transaction_id": 900}

    empty = {"snapshot": "800:800:", "rows": []}
    steps = [("begin", None), ("load", empty), *(("take", delete(n)) for n in range(10_001))]
    # It needs another snapshot now, and takes it.
    again = {"snapshot": "901:901:", "rows": [{"id": 1, "version": 99_999}]}
    (end,) = play([[*steps, ("load", again)]])
    assert end["rows"] == again["rows"]


def test_a_truncated_table_is_read_again(play: Any) -> None:
    row = {"id": 1, "version": 1}
    change: dict[str, Any] = {
        "operation": "insert",
        "old": None,
        "new": row,
        "changed": [],
        "transaction_id": 1,
    }
    truncate = {"operation": "truncate", "old": None, "new": None, "transaction_id": 2}
    empty = {"snapshot": "1:1:", "rows": []}
    later = {"snapshot": "3:3:", "rows": []}
    steps = [("begin", None), ("load", empty), ("take", change), ("take", truncate)]
    kept = {**change, "new": {"id": 2, "version": 2}, "transaction_id": 3}
    (first, second) = play([steps, [*steps, ("take", kept), ("load", later), ("take", truncate)]])
    assert first["told"] == ["insert 1 1", "truncate  0"]
    assert second["rows"] == [kept["new"]]
