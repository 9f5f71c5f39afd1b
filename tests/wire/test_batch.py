"""The account of a batch: what becomes of each message, without a channel or any waiting."""

from __future__ import annotations

from pg_amqp_py.wire.batch import Attempt, Batch
from pg_amqp_py.wire.confirms import Opening, Returned
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import ChannelClosedError, ConnectionLostError
from pg_amqp_py.wire.frames import Ack
from pg_amqp_py.wire.message import Envelope
from pg_amqp_py.wire.methods import FRAME_MAX

GONE = ChannelClosedError(404, "NOT_FOUND - no exchange 'gone' in vhost '/'")
UNKNOWN = ChannelClosedError(406, "PRECONDITION_FAILED - something new")
TORN = ConnectionLostError("FRAME_ERROR", 501)


def batch_of(*exchanges: str, rewrite: bool = False, mandatory: bool = False) -> Batch:
    """A message to each of these exchanges, with its position as body."""
    stream, starts = bytearray(), list[int]()
    for at, exchange in enumerate(exchanges):
        starts.append(len(stream))
        envelope = Envelope(exchange, "key", mandatory=mandatory, message_id=str(at))
        Encoder().append(stream, tuple(envelope), str(at).encode())
    return Batch(stream, starts, FRAME_MAX, rewrite=rewrite)


def begin(batch: Batch, opening: Opening | None = None) -> Attempt:
    """Begin to write what is pending, with delivery tags from 1 on."""
    return batch.begin(opening or Opening(None), batch.next(), 1)


def send_all(attempt: Attempt) -> None:
    while attempt.unwritten.left:
        attempt.unwritten.send(len)


def answer(attempt: Attempt, *tags: int, positive: bool = True) -> None:
    for tag in tags:
        attempt.confirms.answer(Ack(positive, tag, multiple=False))


def test_everything_is_pending_at_first() -> None:
    batch = batch_of("x", "", "y")
    assert (batch.pending, batch.confirmed, batch.delivered()) == (3, 0, [])
    assert batch.pending_places() == [("x", "key"), ("", "key"), ("y", "key")]
    assert batch.next() == [range(3)]
    assert not batch.awaited


def test_what_is_confirmed_is_delivered() -> None:
    batch = batch_of("x", "x", "x")
    attempt = begin(batch)
    send_all(attempt)
    answer(attempt, 1, 3)
    assert batch.pending == 3
    batch.collect()
    assert (batch.pending, batch.confirmed, batch.delivered()) == (1, 2, [0, 2])
    assert batch.next() == [range(1, 2)]
    answer(attempt, 2)
    batch.end(settle=True)
    assert (batch.pending, batch.confirmed) == (0, 3)
    assert batch.next() == []


def test_what_is_not_settled_is_written_again() -> None:
    batch = batch_of("x", "x", "x", "x")
    attempt = begin(batch)
    answer(attempt, 1, 3)
    batch.end(settle=True)
    assert batch.next() == [range(1, 2), range(3, 4)]
    again = begin(batch)
    assert list(again.positions()) == [1, 3]
    answer(again, 2)
    batch.end(settle=True)
    assert batch.delivered() == [0, 2, 3]


def test_an_end_that_settles_nothing() -> None:
    batch = batch_of("x")
    answer(begin(batch), 1)
    batch.end(settle=False)
    assert batch.pending == 1


def test_basic_nack() -> None:
    batch = batch_of("x", "y", "z")
    answer(begin(batch), 2, positive=False)
    batch.collect()
    batch.collect()
    assert batch.next() == [range(1), range(2, 3)]
    assert [(cause.exchange, cause.nacked) for cause in batch.refused] == [("y", True)]
    assert list(batch.causes) == [1]
    batch.forget_reported()
    assert batch.refused == []
    assert list(batch.causes) == [1]


def test_what_waits_for_answers_is_awaited() -> None:
    batch, opening = batch_of("x", "x"), Opening(None)
    attempt = begin(batch, opening)
    assert (batch.unanswered, batch.awaited) == (2, False)
    send_all(attempt)
    assert (batch.unanswered, batch.awaited) == (2, True)
    answer(attempt, 1)
    assert (batch.unanswered, batch.awaited) == (1, True)
    opening.lives = False
    assert (batch.unanswered, batch.awaited) == (0, False)
    assert batch.stop_writing() == []


def test_going_on_where_somebody_else_began() -> None:
    batch = batch_of("x", "x", "x")
    batch.go_on(Opening(None), 5, sent=1000, unconfirmed=6)
    assert batch.awaited
    batch.collect()
    assert batch.delivered() == [0]
    attempt = batch.left()
    assert attempt is not None
    assert attempt.confirms.first_open == 6


def test_going_on_in_the_middle_of_a_message() -> None:
    batch = batch_of("x", "x")
    batch.go_on(Opening(None), 1, sent=3, unconfirmed=1)
    assert not batch.awaited
    assert batch.stop_writing() == [0]
    attempt = batch.left()
    assert attempt is not None
    send_all(attempt)
    assert batch.awaited
    assert attempt.excess == 1


def test_stopping_leaves_what_is_not_begun() -> None:
    batch = batch_of("x", "x", "x", "x")
    attempt = begin(batch)
    attempt.unwritten.send(lambda data: len(data) // 4 + 1)
    # The second message is half written.
    assert attempt.written == 1
    assert batch.stop_writing() == [0, 1]
    assert (attempt.excess, attempt.confirms.count) == (2, 2)
    send_all(attempt)
    answer(attempt, 1, 2)
    batch.end(settle=True)
    assert batch.next() == [range(2, 4)]


def test_stopping_at_the_end_of_a_message() -> None:
    batch = batch_of("x", "x")
    attempt = begin(batch)
    attempt.unwritten.send(lambda data: len(data) // 2)
    assert batch.stop_writing() == [0]
    assert not attempt.unwritten.left


def test_a_closed_channel_is_the_fault_of_all_that_the_text_names() -> None:
    batch = batch_of("x", "gone", "x", "gone")
    attempt = begin(batch)
    batch.end(settle=True)
    batch.blame(GONE, attempt)
    # What stands before was routed: the channel works in order.
    assert batch.delivered() == [0]
    assert batch.confirmed == 0
    assert [cause.text for cause in batch.refused] == [GONE.reply, GONE.reply]
    assert list(batch.causes) == [1, 3]
    assert batch.next() == [range(2, 3)]


def test_with_rewrite_only_a_confirm_counts() -> None:
    batch = batch_of("x", "gone", "x", rewrite=True)
    attempt = begin(batch)
    batch.end(settle=True)
    batch.blame(GONE, attempt)
    assert batch.delivered() == []
    assert batch.next() == [range(1), range(2, 3)]


def test_a_text_that_is_not_understood_makes_it_go_in_steps() -> None:
    batch = batch_of("x", "x", "x", "x")
    attempt = begin(batch)
    batch.end(settle=True)
    batch.blame(UNKNOWN, attempt)
    assert batch.pending == 4
    assert batch.next() == [range(1)]
    answer(begin(batch), 1)
    batch.end(settle=True)
    assert batch.next() == [range(1, 2)]
    attempt = begin(batch)
    batch.end(settle=True)
    batch.blame(UNKNOWN, attempt)
    assert list(batch.causes) == [1]
    # The culprit is found.
    assert batch.next() == [range(2, 4)]


def test_the_last_step() -> None:
    batch = batch_of("x")
    attempt = begin(batch)
    batch.end(settle=True)
    batch.blame(UNKNOWN, attempt)
    answer(begin(batch), 1)
    batch.end(settle=True)
    assert batch.next() == []


def test_a_message_that_ends_connections() -> None:
    batch = batch_of("x", "x")
    for expected in ([range(1)], [range(1, 2)]):
        attempt = begin(batch)
        batch.end(settle=True)
        batch.blame_connection(TORN, attempt)
        assert batch.next() == expected
    assert [cause.text for cause in batch.refused] == [TORN.reply]


def test_a_connection_that_just_breaks_is_nobody_s_fault() -> None:
    batch = batch_of("x", "x")
    attempt = begin(batch)
    batch.end(settle=True)
    batch.blame_connection(ConnectionLostError("reset by peer"), attempt)
    batch.blame_connection(ConnectionLostError("CONNECTION_FORCED", 320), attempt)
    assert batch.next() == [range(2)]


def test_what_is_taken_without_a_confirm() -> None:
    batch = batch_of("x", "x")
    answer(begin(batch), 1, positive=False)
    batch.collect()
    batch.accept()
    assert (batch.pending, batch.confirmed, batch.delivered()) == (0, 0, [1])


def test_a_smaller_largest_frame() -> None:
    stream, starts = bytearray(), list[int]()
    for headers in (None, '{"long": "' + "x" * 5000 + '"}', None):
        starts.append(len(stream))
        Encoder().append(stream, tuple(Envelope("x", "k", headers=headers)), b"y" * 6000)
    batch = Batch(stream, starts, FRAME_MAX)
    batch.fit(Encoder(FRAME_MAX))
    assert batch.pending == 3
    batch.fit(Encoder(4096))
    batch.fit(Encoder(4096))
    assert batch.next() == [range(1), range(2, 3)]
    (cause,) = batch.refused
    assert cause.text.startswith("frames have at most 4096 bytes (headers: ")
    assert not cause.nacked


def test_a_message_that_comes_back() -> None:
    batch = batch_of("x", "y", mandatory=True)
    begin(batch)
    assert batch.take_return(Returned("y", "key", "NO_ROUTE", "1"))
    # There is only one like that.
    assert not batch.take_return(Returned("y", "key", "NO_ROUTE", "1"))
    assert not batch.take_return(Returned("y", "key", "NO_ROUTE", "0"))
    assert not batch.take_return(Returned("y", "other", "NO_ROUTE", "1"))
    assert [message.text for message in batch.returned] == ["NO_ROUTE"]


def test_a_message_that_was_not_mandatory_cannot_come_back() -> None:
    batch = batch_of("x")
    begin(batch)
    assert not batch.take_return(Returned("x", "key", "NO_ROUTE", "0"))
