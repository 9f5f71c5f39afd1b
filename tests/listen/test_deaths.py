"""Sessions, servers and daemons die: each LISTEN is made again, and a gap says what was missed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from servers.postgres import PostgreSQL
from servers.processes import wait_for
from servers.proxy import CuttingProxy
from servers.rabbitmq import RabbitMQ
from servers.relay import ListenProcess
from support.fix_servers import VHost
from support.listeners import Switchboard, switchboard
from support.patience import LIMIT
from support.sessions import Session, open_session

LISTENS = (
    "SELECT pid FROM pg_stat_activity WHERE application_name ~ '^pg-amqp listen [0-9]+ on [^(]*$'"
)


def clock(session: Session) -> datetime:
    """PostgreSQL's clock."""
    found: datetime = session.value("SELECT clock_timestamp()")
    return found


@contextmanager
def _installed(postgres: PostgreSQL, broker: VHost) -> Iterator[Switchboard]:
    """Makes listeners in a server of a test's own."""
    with open_session(postgres.dsn()) as session:
        session.execute("CREATE EXTENSION pg_amqp_py CASCADE")
    with switchboard(postgres.dsn(), broker) as make:
        yield make


def times(gap: dict[str, str]) -> tuple[datetime, datetime]:
    """Between which times the gap is."""
    for text in (gap["gap-from"], gap["gap-to"]):
        assert len(text) == len("2026-11-26T12:00:00.000000+00:00")
    return datetime.fromisoformat(gap["gap-from"]), datetime.fromisoformat(gap["gap-to"])


def test_a_process_that_knows_nothing_does_not_say_since_when(
    listeners: Switchboard, database: str
) -> None:
    listener = listeners()
    before = clock(listener.session)
    with ListenProcess(database):
        gap = listener.wait_for_gap("start")
    assert "gap-from" not in gap
    assert before < datetime.fromisoformat(gap["gap-to"]) < clock(listener.session)


def test_a_terminated_session_listens_again_and_tells_of_a_gap(
    listeners: Switchboard, listening: ListenProcess
) -> None:
    first, second = listeners(), listeners()
    session = first.session
    for listener in (first, second):
        listener.wait_until_heard()
    first.notify("before")
    first.wait_for_texts("before")
    alive = clock(session)
    ((pid,),) = session.run(LISTENS)
    assert session.value("SELECT pg_terminate_backend(%s, 10000)", pid)
    for listener in (first, second):
        since, until = times(listener.wait_for_gap("postgres"))
        # It may have missed whatever was sent since its last look but one.
        assert since < alive < until
        assert (alive - since).total_seconds() < 10
        listener.notify("after")
    first.wait_for_texts("before", "after")
    second.wait_for_texts("after")
    assert not first.gaps
    assert len(listening.events("database not usable")) == 1


def test_postgresql_restarts_and_is_killed(broker: VHost) -> None:
    with PostgreSQL() as postgres, _installed(postgres, broker) as make:
        listener = make("c")
        with ListenProcess(postgres.dsn()):
            listener.wait_until_heard()
            for number, way in enumerate((postgres.restart, postgres.kill)):
                way()
                if way == postgres.kill:
                    postgres.start()
                with open_session(postgres.dsn()) as session:
                    listener.session = session
                    assert times(listener.wait_for_gap("postgres"))
                    listener.notify(str(number))
                    listener.wait_for_texts(*map(str, range(number + 1)))


def test_a_standby_is_promoted(broker: VHost) -> None:
    with PostgreSQL() as primary, _installed(primary, broker) as make:
        listener = make("c")
        with (
            PostgreSQL(standby_of=primary) as standby,
            ListenProcess(primary.dsn_with(standby)),
        ):
            listener.wait_until_heard()
            primary.stop("immediate")
            standby.promote()
            with open_session(standby.dsn()) as session:
                listener.session = session
                listener.wait_for_gap("postgres")
                listener.notify("promoted")
                listener.wait_for_texts("promoted")


def test_a_standby_is_said_to_be_one(broker: VHost) -> None:
    with PostgreSQL() as primary, _installed(primary, broker) as make:
        listener = make("c")
        with (
            PostgreSQL(standby_of=primary) as standby,
            open_session(standby.dsn()) as session,
            ListenProcess(standby.dsn()) as listening,
        ):
            seen: set[object] = set()

            def looked_again() -> bool:
                seen.update(
                    session.run(
                        "SELECT backend_start FROM pg_stat_activity"
                        " WHERE application_name LIKE 'pg-amqp listen%'"
                    )
                )
                return len(seen) > 4

            wait_for(looked_again, LIMIT, "some attempts")
            assert [event["error"] for event in listening.events("database not usable")] == [
                "the server is a standby, where nobody can LISTEN"
            ]
            standby.promote()
            listener.session = session
            listener.wait_until_heard()


def test_a_silent_network_is_noticed_and_another_daemon_takes_over(
    postgres: PostgreSQL, database: str, listeners: Switchboard
) -> None:
    listener = listeners()
    with CuttingProxy(postgres.port) as proxy:
        through = f"{database} host=127.0.0.1 port={proxy.port}"
        with ListenProcess(through) as cut_off:
            listener.wait_until_heard()
            with ListenProcess(database) as other:
                other.wait_for_event("standing by: another session listens")
                proxy.stall()
                # Of the one that takes over.
                listener.wait_until_heard()
                listener.notify("taken over")
                listener.wait_for_texts("taken over")
                # Who was cut off does not listen again, as long as somebody else does.
                cut_off.wait_for_event("database not usable")
                proxy.pass_all()
                cut_off.wait_for_event("standing by: another session listens")
                assert len(cut_off.events("listening")) == 1


def test_rabbitmq_restarts_and_nothing_is_lost(database: str) -> None:
    with RabbitMQ() as node, switchboard(database, VHost(node, "/")) as make:
        listener = make(on_failure="outbox")
        with ListenProcess(database) as listening:
            listener.wait_until_heard()
            listener.notify("before")
            listener.wait_for_texts("before")
            node.write_down()
            node.kill()
            listening.wait_for_event("connection to broker lost")
            listener.notify(*(f"away {number}" for number in range(20)))
            listener.wait_until("the outbox", lambda status: status["stored"] == 20)
            node.start()
            listening.wait_for_event("connected to broker", 2)
            listener.notify("back")
            listener.wait_until("the message", lambda status: status["published"] == 2)
            rows = listener.session.run(
                "SELECT convert_from(body, 'UTF8'), exchange, routing_key,"
                " headers ->> 'pgsql-channel', message_id ~ '^[0-9a-f-]{36}$' FROM amqp.outbox"
                " ORDER BY id"
            )
            assert rows == [
                (f"away {number}", listener.exchange, listener.name, listener.name, True)
                for number in range(20)
            ]


def test_the_daemon_is_killed_and_another_one_stands_by(
    listeners: Switchboard, database: str
) -> None:
    listener = listeners()
    with ListenProcess(database) as first, ListenProcess(database) as second:
        wait_for(
            lambda: first.events("listening") or second.events("listening"), LIMIT, "one to listen"
        )
        working, waiting = (first, second) if first.events("listening") else (second, first)
        waiting.wait_for_event("standing by: another session listens")
        listener.wait_until_heard()
        listener.notify("a")
        listener.wait_for_texts("a")
        working.kill()
        listener.wait_until_heard()
        listener.notify("b")
        listener.wait_for_texts("a", "b")
        assert listener.status()["listener"].startswith(f"pg-amqp listen {waiting.pid} ")


def test_a_clean_stop_sends_what_was_received(
    listeners: Switchboard, listening: ListenProcess
) -> None:
    listener = listeners()
    listener.wait_until_heard()
    texts = [str(number) for number in range(2000)]
    listener.session.execute(
        "SELECT pg_notify(%s, n::text) FROM generate_series(0, 1999) AS n", [listener.name]
    )
    listener.wait_until("some", lambda status: status["received"])
    assert listening.terminate() == 0
    listener.wait_for_texts(*texts)
    status = listener.status()
    assert (status["received"], status["published"]) == (2000, 2000)
