"""Runs of messages with ordering keys, against a broker that is a few lines of Python."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, cast

from pg_amqp_py.wire.connection import Connection, Returned
from pg_amqp_py.wire.encode import Encoder, decode_messages
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError
from pg_amqp_py.wire.frames import Ack
from pg_amqp_py.wire.message import Envelope, Message
from pg_amqp_py.wire.waves import Entry, Run, Undelivered

Judge = Callable[[Message], str]


def entry(number: int, key: str | None = None, **properties: Any) -> Entry:
    """A message whose id is also its message_id and its body."""
    given: dict[str, Any] = {"exchange": "e", "routing_key": "k", "message_id": str(number)}
    return Entry(number, key, tuple(Envelope(**{**given, **properties})), str(number).encode())


class Broker:
    """What a batch needs of a connection; `judge` says what becomes of each message.

    ack, nack, return (and then ack), refuse (the channel is closed), or lose (the connection is).
    """

    blocked = None
    usable = True
    unconfirmed = False
    late_refusal = None
    ahead = b""

    def __init__(self, judge: Judge = lambda _: "ack") -> None:
        self.encoder = Encoder()
        self.published = 0
        self.channels = 1
        self.on_publisher: Callable[[object], None] = lambda _: None
        self.taken: list[int] = []
        """Bodies of what it has accepted."""
        self._judge = judge
        self._tag = 0
        self._written = b""

    def send_some(self, data: bytes | memoryview) -> int:
        self._written += data
        return len(data)

    def wait(self, deadline: float, *, sending: bool = False) -> None: ...

    def receive(self) -> None:
        written, self._written = self._written, b""
        for message in decode_messages(written):
            verdict = self._judge(message)
            if verdict == "refuse":
                text = f"NOT_FOUND - no exchange '{message.envelope.exchange}' in vhost '/'"
                raise ChannelClosedError(404, text)
            if verdict == "lose":
                self.usable = False
                raise ConnectionLostError("reset by peer")
            self._tag += 1
            if verdict == "return":
                exchange, routing_key = message.envelope[:2]
                self.on_publisher(
                    Returned(exchange, routing_key, "NO_ROUTE", message.envelope.message_id)
                )
            elif verdict == "ack":
                self.taken.append(int(message.body))
            self.on_publisher(Ack(verdict != "nack", self._tag, multiple=False))

    def settle_unconfirmed(self, deadline: float, *, wait: bool = True) -> None: ...

    def forget_exchanges(self) -> None: ...

    def renew_channel(self, deadline: float) -> None: ...

    def reopen(self, deadline: float) -> None:
        self.published = self._tag = 0
        self.channels += 1


def deliver(run: Run, broker: Broker, waves: int | None = None) -> int:
    """Deliver the run, or as many waves of it; return how many there were."""
    count = 0
    with closing(run.batches(lambda _: None)) as batches:
        for batch in batches:
            batch.write(cast(Connection, broker), 60)
            count += 1
            if count == waves:
                break
    return count


def run_of(*entries: Entry) -> Run:
    return Run(entries, Encoder())


def keyed(*keys: str | None) -> Run:
    return run_of(*(entry(number, key) for number, key in enumerate(keys, 1)))


def at_bad(verdict: str) -> Judge:
    """Accept everything but what goes to the exchange "bad"."""
    return lambda message: verdict if message.envelope.exchange == "bad" else "ack"


def refused(run: Run) -> list[tuple[int, str]]:
    return [refusal[:2] for refusal in run.refused]


def test_messages_without_key_are_one_wave() -> None:
    run, broker = keyed(None, None, None), Broker()
    assert deliver(run, broker) == 1
    assert run.delivered == broker.taken == [1, 2, 3]
    assert run.refused == []


def test_no_key_occurs_twice_in_a_wave() -> None:
    run, broker = keyed("a", "b", None, "a", None, "b", "b", "c"), Broker()
    # a b - | a - b | b c
    assert deliver(run, broker) == 3
    assert run.delivered == broker.taken == list(range(1, 9))


def test_an_empty_run_has_no_waves() -> None:
    assert deliver(run_of(), Broker()) == 0


def test_what_fails_holds_back_its_key_alone() -> None:
    for verdict, expected in (("nack", "busy"), ("refuse", "refused"), ("return", "refused")):
        run = run_of(
            entry(1, "a", exchange="bad", mandatory=True),
            entry(2, "a"),
            entry(3, "b"),
            entry(4, None),
            entry(5, "a"),
            entry(6, "b"),
        )
        broker = Broker(at_bad(verdict))
        deliver(run, broker)
        assert refused(run) == [(1, expected)]
        assert run.delivered == broker.taken == [3, 4, 6]
        assert run.held == {"a"}


def test_what_was_held_back_before_stays() -> None:
    run, broker = keyed("a", "b", None, "b"), Broker()
    run.held |= {"a"}
    deliver(run, broker)
    assert run.delivered == broker.taken == [2, 3, 4]
    assert run.refused == []
    run = keyed("a")
    run.held |= {"a"}
    deliver(run, broker)
    assert (run.delivered, run.refused) == ([], [])


def test_what_cannot_be_encoded_is_invalid() -> None:
    run = run_of(
        entry(1, "a", delivery_mode=7),
        entry(2, "a"),
        entry(3, headers="[]"),
        entry(4, timestamp=-1),
        entry(5, "b", exchange="é" * 128),
        entry(6),
    )
    assert [refusal.id for refusal in run.refused] == [1, 3, 4, 5]
    assert {refusal.verdict for refusal in run.refused} == {"invalid"}
    assert run.refused[0] == Undelivered(1, "invalid", "invalid value for delivery_mode: 7")
    broker = Broker()
    deliver(run, broker)
    assert run.delivered == broker.taken == [6]
    assert run.held == {"a", "b"}


def test_a_returned_message_is_known_by_place_and_id() -> None:
    run = run_of(
        entry(1, mandatory=True),
        entry(2, mandatory=True, routing_key="nobody"),
        # With the id of the one that is handed back, and another place or no flag.
        entry(3, mandatory=True, message_id="2"),
        entry(4, mandatory=False, routing_key="nobody", message_id="2"),
        entry(5, mandatory=True, routing_key="nobody", message_id="5"),
    )
    broker = Broker(
        lambda m: "return" if m.envelope.mandatory and m.envelope.routing_key == "nobody" else "ack"
    )
    deliver(run, broker)
    assert [refusal.id for refusal in run.refused] == [2, 5]
    assert run.refused[0].text == "NO_ROUTE"
    assert run.delivered == [1, 3, 4]


def test_when_it_is_cut_short_the_rest_is_neither_delivered_nor_refused() -> None:
    run, broker = keyed("a", "a", "b"), Broker()
    deliver(run, broker, waves=1)
    assert (run.delivered, run.refused) == ([1], [])
    # What was not confirmed may have failed: nothing behind it may go in the next run either.
    lost = Broker(lambda m: "lose" if m.body == b"2" else "ack")
    run = keyed("a", "b", "c", "b")
    batches = run.batches(lambda _: None)
    batch = next(batches)
    try:
        batch.write(cast(Connection, lost), 60)
    except ConnectionLostError:
        batches.close()
    assert run.delivered == [1]
    assert run.held == {"b", "c"}


def test_any_run_is_delivered_in_order_or_held_back() -> None:
    choose = random.Random(3)
    for _ in range(200):
        keys: Sequence[str | None] = [None, "a", "b", "c"]
        entries = [
            entry(number, choose.choice(keys), exchange=choose.choice(["e", "e", "e", "bad"]))
            for number in range(1, choose.randint(2, 30))
        ]
        verdicts = {
            number: choose.choice(["ack", "ack", "ack", "nack"])
            for number in range(1, len(entries) + 1)
        }

        def judge(message: Message, verdicts: dict[int, str] = verdicts) -> str:
            return "refuse" if message.envelope.exchange == "bad" else verdicts[int(message.body)]

        run, broker = run_of(*entries), Broker(judge)
        deliver(run, broker)
        assert sorted(run.delivered) == sorted(broker.taken)
        failed = {refusal.id for refusal in run.refused}
        for key in ("a", "b", "c"):
            mine = [one.id for one in entries if one.ordering_key == key]
            first = next((at for at, one in enumerate(mine) if one in failed), len(mine))
            assert [one for one in broker.taken if one in mine] == mine[:first]
            assert failed.isdisjoint(mine[first + 1 :])
        free = {one.id for one in entries if one.ordering_key is None}
        assert free <= failed | set(run.delivered)
