"""A relay that is killed again and again makes progress all the same."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from servers.processes import wait_for
from servers.proxy import CuttingProxy, Direction
from servers.relay import RelayProcess
from support.fix_servers import VHost
from support.outbox import in_outbox, put_many, wait_until_empty
from support.patience import LIMIT
from support.queues import count, take
from support.sessions import Session

MESSAGES = 6000
LIFE = 1500
"""Messages that arrive before a relay is killed."""


@contextmanager
def slowed_down(proxy: CuttingProxy) -> Iterator[None]:
    """Let some 500 messages pass in a second."""
    ending = threading.Event()

    def pace() -> None:
        while not ending.is_set():
            proxy.stall_after(4000, Direction.TO_SERVER)
            ending.wait(0.05)
        proxy.pass_all()

    thread = threading.Thread(target=pace)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


@pytest.mark.slow
def test_a_relay_in_a_crash_loop_makes_progress(
    database: str, session: Session, broker: VHost, proxy: CuttingProxy, channel: BlockingChannel
) -> None:
    channel.queue_declare("queue", durable=True)
    channel.queue_bind("queue", "amq.topic", "#")
    session.execute("UPDATE amqp.broker SET port = %s", [proxy.port])
    put_many(session, MESSAGES)

    lives = 0
    with slowed_down(proxy):
        while len(left := in_outbox(session)) > LIFE:
            lives += 1
            before = count(channel, "queue")
            with RelayProcess(database) as relay:
                wait_for(
                    lambda before=before: count(channel, "queue") >= before + LIFE,  # type: ignore[misc]
                    LIMIT,
                    "some to arrive",
                )
                relay.kill()
            assert len(in_outbox(session)) < len(left), "no life is in vain"
    with RelayProcess(database):
        wait_until_empty(session)
    copies = Counter(take(channel, "queue"))
    assert len(copies) == MESSAGES
    # Without reports in between, all of them would be.
    assert copies.total() - MESSAGES < lives * LIFE / 2
