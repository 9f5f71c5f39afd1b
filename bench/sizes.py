"""How much of everything is measured: in full, and quickly to see that it works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of messages, calls, rounds, seconds, by the group that they are for."""

    rounds: int
    """Where nothing else is said."""
    pause: float
    """Seconds of rest for the broker after its queue was emptied."""
    bulk: tuple[tuple[int, int], ...]
    """Messages in a transaction, and rounds."""
    bodies_10_kb: int
    bodies_1_mb: int
    bodies_varied: int
    single_blocks: int
    """Of 20 calls each."""
    clients: tuple[int, ...]
    clients_rounds: int
    clients_seconds: float
    trigger_rows: int
    first_sessions: int
    memory_sessions: int
    memory_pending: int
    down_blocks: int
    """Of 20 calls each."""
    relay_messages: int
    latency_messages: int
    consume_messages: int
    consume_one_by_one: int
    """For who makes a transaction of each message."""
    consume_points: int
    consume_pending: int
    gateway_seconds: int
    gateway_limit: int
    """Messages that show what the broker confirms."""
    consume_large: int
    """Messages of 100 KB."""
    consume_latency: int
    listen_notifications: int
    outbox_rows: int
    outbox_clients: tuple[int, ...]
    size_bytes: int
    """Of all messages of one size together."""
    size_most: int
    """Messages of one size."""
    counts: tuple[int, ...]
    savepoints: tuple[int, ...]
    backlogs: tuple[int, ...]


FULL = Sizes(
    rounds=5,
    pause=0.5,
    bulk=((100_000, 5), (1_000_000, 3)),
    bodies_10_kb=10_000,
    bodies_1_mb=300,
    bodies_varied=100_000,
    single_blocks=150,
    clients=(1, 4, 16, 64),
    clients_rounds=3,
    clients_seconds=4,
    trigger_rows=100_000,
    first_sessions=41,
    memory_sessions=7,
    memory_pending=1_000_000,
    down_blocks=50,
    relay_messages=200_000,
    latency_messages=101,
    consume_messages=100_000,
    consume_one_by_one=5_000,
    consume_points=100_000,
    consume_pending=1_000_000,
    gateway_seconds=8,
    gateway_limit=100_000,
    consume_large=2_000,
    consume_latency=201,
    listen_notifications=100_000,
    outbox_rows=100_000,
    outbox_clients=(1, 8, 64),
    size_bytes=100_000_000,
    size_most=20_000,
    counts=(1, 10, 100, 1_000, 10_000, 100_000, 1_000_000),
    savepoints=(1, 10, 100, 1_000, 10_000, 100_000),
    backlogs=(0, 1_000, 10_000, 100_000, 1_000_000),
)

QUICK = Sizes(
    rounds=2,
    pause=0.02,
    bulk=((5_000, 2), (20_000, 1)),
    bodies_10_kb=500,
    bodies_1_mb=10,
    bodies_varied=5_000,
    single_blocks=10,
    clients=(1, 4, 16),
    clients_rounds=1,
    clients_seconds=0.5,
    trigger_rows=5_000,
    first_sessions=5,
    memory_sessions=3,
    memory_pending=50_000,
    down_blocks=5,
    relay_messages=20_000,
    latency_messages=21,
    consume_messages=5_000,
    consume_one_by_one=300,
    consume_points=5_000,
    consume_pending=20_000,
    gateway_seconds=2,
    gateway_limit=20_000,
    consume_large=100,
    consume_latency=21,
    listen_notifications=20_000,
    outbox_rows=10_000,
    outbox_clients=(1, 8),
    size_bytes=10_000_000,
    size_most=1_000,
    counts=(1, 10, 100, 1_000, 10_000),
    savepoints=(1, 10, 100, 1_000, 10_000),
    backlogs=(0, 1_000, 10_000),
)
