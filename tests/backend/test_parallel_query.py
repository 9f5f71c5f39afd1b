"""A function that is wrongly declared PARALLEL SAFE and publishes: an error, and no crash."""

from __future__ import annotations

import pytest

from support.fix_servers import VHost
from support.sessions import Session, open_session
from support.shared import shared_fixtures

database, broker, session = shared_fixtures()

PARALLEL = """
SET debug_parallel_query = on;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
"""
CALLS = {
    "publish": "amqp.publish({0}, 'amq.topic', 'key', n::text)",
    "publish_change": "amqp_inner.publish_change({0}, 'amq.topic', 'key', n::text)",
    "autonomous": "amqp.autonomous_publish({0}, 'amq.topic', 'key', n::text)",
    "timestamp": "amqp.publish({0}, 'amq.topic', 'key', '', \"timestamp\" => now())",
    "declare": "amqp.exchange_declare({0}, 'amq.topic', 'topic', true, true)",
    "pending": "(SELECT count(*) > 0 FROM amqp.pending())",
    "status": "(SELECT count(*) > 0 FROM amqp.status())",
    "ping": "amqp.ping({0}) IS NOT NULL",
    "request": "amqp.request({0}, '', 'q', 'x') IS NOT NULL",
    "disconnect": "amqp.disconnect({0}) IS NOT NULL",
    "batch": "amqp.publish_outbox_batch({0}) > 0",
    "load": "amqp_inner.load_python() IS NOT NULL",
}


@pytest.fixture
def numbers(session: Session) -> str:
    """A table that a parallel plan reads."""
    session.run("DROP TABLE IF EXISTS numbers")
    session.run("CREATE TABLE numbers AS SELECT n FROM generate_series(1, 10000) AS n")
    session.run("ANALYZE numbers")
    return "SELECT count(wrong(n)) FROM numbers WHERE n <= 10"


@pytest.mark.parametrize("loaded", [False, True], ids=["at first", "loaded"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("leader", ["on", "off"])
def test_wrongly_declared_function(
    database: str,
    session: Session,
    broker: VHost,
    numbers: str,
    call: str,
    loaded: bool,
    leader: str,
) -> None:
    broker_id = session.add_broker(broker.url())
    with open_session(database) as parallel:
        parallel.run(PARALLEL.replace("debug_parallel_query", _forcing(parallel)))
        parallel.run(f"SET parallel_leader_participation = {leader}")
        session.run(
            "CREATE OR REPLACE FUNCTION wrong(n int) RETURNS boolean LANGUAGE plpgsql PARALLEL SAFE"
            f" AS 'BEGIN RETURN {CALLS[call].format(broker_id).replace(chr(39), chr(39) * 2)}; END'"
        )
        if loaded:
            parallel.run("SELECT amqp.ping(%s)", broker_id)
        plan = "\n".join(line for (line,) in parallel.run(f"EXPLAIN {numbers}"))
        assert "Gather" in plan
        for _ in range(3):
            error = parallel.error(numbers)
            assert error.sqlstate == "25000", error
            assert "parallel query" in error.message
            assert "PARALLEL UNSAFE" in error.hint
        # The same backend, and the whole server.
        assert parallel.run("SELECT 1") == [(1,)]
    assert session.run("SELECT 1") == [(1,)]


def _forcing(session: Session) -> str:
    """The setting that forces a parallel plan, which PostgreSQL 16 has renamed."""
    version: int = session.info.server_version
    return "debug_parallel_query" if version >= 160000 else "force_parallel_mode"
