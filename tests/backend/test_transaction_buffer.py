"""The transaction buffer against a plain model of savepoints, without a server."""

from __future__ import annotations

import random

import pytest

from pg_amqp_py.backend import buffer as buffer_module
from pg_amqp_py.backend.buffer import Destination, TransactionBuffer
from pg_amqp_py.wire.encode import Encoder, decode_messages
from pg_amqp_py.wire.errors import MessageError
from pg_amqp_py.wire.message import Envelope

ONE = Destination(1, captured=False)
TWO = Destination(2, captured=False)
CAPTURED = Destination(1, captured=True)


def add(
    buffer: TransactionBuffer,
    subtransaction: int,
    text: str,
    destination: Destination = ONE,
    publisher: int = 10,
) -> None:
    envelope = tuple(Envelope("e", "k"))
    buffer.append(subtransaction, publisher, destination, Encoder(), envelope, text.encode())


def bodies(buffer: TransactionBuffer) -> list[str]:
    return [message.body.decode() for _, _, message in buffer.messages()]


def test_order_of_calls() -> None:
    buffer = TransactionBuffer()
    for text in "abc":
        add(buffer, 1, text)
    assert bodies(buffer) == ["a", "b", "c"]
    assert len(buffer) == 3


def test_a_rolled_back_savepoint() -> None:
    buffer = TransactionBuffer()
    add(buffer, 1, "kept")
    add(buffer, 2, "lost")
    buffer.abort(2)
    add(buffer, 1, "kept too")
    assert bodies(buffer) == ["kept", "kept too"]


def test_a_released_savepoint_goes_with_its_parent() -> None:
    buffer = TransactionBuffer()
    add(buffer, 1, "kept")
    # Savepoint 2, in it 3, which is released: what follows is published by 2 again.
    add(buffer, 3, "lost")
    add(buffer, 2, "lost too")
    buffer.abort(2)
    assert bodies(buffer) == ["kept"]


def test_an_aborted_subtransaction_that_published_nothing() -> None:
    buffer = TransactionBuffer()
    add(buffer, 1, "kept")
    add(buffer, 2, "kept too")
    buffer.abort(3)
    assert bodies(buffer) == ["kept", "kept too"]


def test_a_message_that_cannot_be_encoded_leaves_nothing() -> None:
    buffer = TransactionBuffer()
    add(buffer, 1, "kept")
    with pytest.raises(MessageError):
        buffer.append(2, 10, TWO, Encoder(), tuple(Envelope("e", "x" * 256)), b"")
    add(buffer, 1, "kept too")
    assert bodies(buffer) == ["kept", "kept too"]
    assert len(buffer.parcels()) == 1


def test_outgoing_by_destination() -> None:
    buffer = TransactionBuffer()
    for at, destination in enumerate([ONE, ONE, TWO, CAPTURED, ONE, TWO]):
        add(buffer, 1, str(at), destination)
    outgoing = {part.destination: part for part in buffer.parcels()}
    assert set(outgoing) == {ONE, TWO}
    for destination, expected in ((ONE, "014"), (TWO, "25")):
        part = outgoing[destination]
        assert [m.body.decode() for m in decode_messages(part.stream)] == list(expected)
        assert [
            next(decode_messages(memoryview(part.stream)[start:])).body.decode()
            for start in part.starts
        ] == list(expected)
    assert buffer.pending(1) == 3
    assert buffer.pending(2) == 2


@pytest.mark.parametrize("number", [-1, -2, 0, 1 << 61, (1 << 61) - 1])
def test_what_is_captured_is_not_taken_for_what_is_sent(number: int) -> None:
    # Python has the same hash for several of these.
    for other in (-2, -1, 0, 1, 1 << 61):
        for captured in (False, True):
            same = other == number and not captured
            one, two = Destination(number, captured=False), Destination(other, captured=captured)
            assert (one == two) == same


def test_captured_messages_are_never_outgoing() -> None:
    buffer = TransactionBuffer()
    add(buffer, 1, "captured", CAPTURED)
    assert not buffer.sends()
    assert buffer.parcels() == []
    assert bodies(buffer) == ["captured"]
    assert buffer.pending(1) == 0


@pytest.mark.parametrize("large", [1 << 23, 200, 0])
def test_random_savepoints_against_a_plain_model(
    monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    monkeypatch.setattr(buffer_module, "_LARGE_STREAM", large)
    monkeypatch.setattr(buffer_module, "_LARGE_BODY", 2)
    choose = random.Random(11)
    for _ in range(500):
        buffer = TransactionBuffer()
        # The model: a stack of open subtransactions, each with the messages that it would keep.
        stack: list[tuple[int, list[tuple[int, Destination, str]]]] = [(1, [])]
        last_id = 1
        for step in range(choose.randint(1, 60)):
            action = choose.random()
            if action < 0.5:
                destination = choose.choice([ONE, ONE, TWO, CAPTURED])
                publisher = choose.choice([10, 10, 11, 12])
                add(buffer, stack[-1][0], str(step), destination, publisher)
                stack[-1][1].append((publisher, destination, str(step)))
            elif action < 0.75:
                last_id += 1
                stack.append((last_id, []))
            elif len(stack) > 1:
                subtransaction, kept = stack.pop()
                if action < 0.87:
                    stack[-1][1].extend(kept)
                else:
                    buffer.abort(subtransaction)
        expected = [entry for _, kept in stack for entry in kept]
        assert [(p, d, m.body.decode()) for p, d, m in buffer.messages()] == expected
        for destination in (ONE, TWO):
            sent = [p.stream for p in buffer.parcels() if p.destination == destination]
            assert [m.body.decode() for s in sent for m in decode_messages(s)] == [
                text for _, d, text in expected if d == destination
            ]
