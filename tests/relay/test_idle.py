"""What an idle relay asks of the database."""

from __future__ import annotations

from collections import Counter

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.outbox import LIMIT
from support.sessions import Session

_BROKERS = 5
_ROUNDS = 20
"""Of the lookout: they take four seconds."""


def asked(postgres: PostgreSQL, since: int) -> Counter[str]:
    """How many statements the server was asked since its log was so long, and what for."""
    found: Counter[str] = Counter()
    for line in postgres.log_text()[since:].splitlines():
        found["all"] += "  execute " in line or "  statement: " in line
        found["rounds"] += "amqp_inner.outbox_await($1" in line
        found["sweeps"] += "amqp_inner.outbox_due($1" in line
    return found


def test_idle_brokers_are_looked_after_together(
    postgres: PostgreSQL, database: str, session: Session, broker: VHost
) -> None:
    for _ in range(_BROKERS - 1):
        session.add_broker(broker.url())
    name = session.value("SELECT current_database()")
    session.run(f"ALTER DATABASE {name} SET log_statement = 'all'")
    numbers = ",".join(str(number) for number in range(1, _BROKERS + 1))
    everybody = f"$1 = '{{{numbers}}}'"
    with RelayProcess(database) as relay:
        relay.wait_for_event("working the outbox", _BROKERS)
        wait_for(lambda: everybody in postgres.log_text(), LIMIT, "all brokers to be at rest")
        began = len(postgres.log_text())
        wait_for(lambda: asked(postgres, began)["rounds"] >= _ROUNDS, LIMIT, "rounds", interval=1)
        found = asked(postgres, began)
    # In a round each worker would look twenty times by itself. It does so five rounds apart, and
    # then asks for its hosts and for retained messages, too; what comes more rarely is allowed for.
    turns = found["rounds"] / 5 + 2
    assert 0 < found["sweeps"] <= turns * _BROKERS, found
    assert found["all"] <= found["rounds"] + turns * (4 * _BROKERS + 2), found
