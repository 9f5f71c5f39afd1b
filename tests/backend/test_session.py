"""What a session remembers, and what ends with its transaction, without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pg_amqp_py.backend.buffer import Destination
from pg_amqp_py.backend.session import Session, Transaction
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.message import Envelope

if TYPE_CHECKING:
    from pg_amqp_py.backend.broker import Broker
    from pg_amqp_py.wire.channel import PublishingChannel

FIELDS = tuple(Envelope("e", "k"))


class Row:
    """A broker of which only the row is looked at."""

    def __init__(self) -> None:
        self.forgotten = 0

    def forget_row(self) -> None:
        self.forgotten += 1


class Line:
    """A channel of which only the largest frame is looked at."""

    def __init__(self, frame_max: int = 131072) -> None:
        self.encoder = Encoder(frame_max)


def with_broker(number: int = 1) -> tuple[Session, Row]:
    session, row = Session(), Row()
    session.brokers[number] = cast("Broker", row)
    return session, row


def connection(frame_max: int = 131072) -> PublishingChannel:
    return cast("PublishingChannel", Line(frame_max))


def publish(session: Session, subtransaction: int, text: str) -> None:
    destination = Destination(1, captured=False)
    buffer = session.begun().buffer
    buffer.append(subtransaction, 10, destination, Encoder(), FIELDS, text.encode())


def pending(session: Session) -> list[str]:
    if session.transaction is None:
        return []
    return [message.body.decode() for _, _, message in session.transaction.buffer.messages()]


def test_a_transaction_begins_when_it_is_first_needed() -> None:
    session = Session()
    assert session.transaction is None
    transaction = session.begun()
    assert session.begun() is transaction is session.transaction


def test_nothing_of_a_transaction_outlives_it() -> None:
    session, _ = with_broker()
    publish(session, 5, "gone")
    transaction = session.begun()
    transaction.let_publish(1, connection())
    transaction.divert(2)
    transaction.count_tolerated("error")
    session.end()
    assert session.transaction is None
    assert len(session.begun().buffer) == 0
    publish(session, 1, "new")
    assert pending(session) == ["new"]
    after = session.begun()
    assert (after.usable, after.publishing, after.frame_max, after.tolerated) == ({}, {}, {}, {})
    assert (after.diverted, after.permitted, after.changed) == (frozenset(), (), ())


def test_what_one_transaction_changes_no_other_has() -> None:
    one, other = Transaction(), Transaction()
    one.divert(1)
    one.permitted += (10,)
    assert (other.diverted, other.permitted) == (frozenset(), ())


def test_a_rolled_back_transaction_publishes_nothing() -> None:
    session = Session()
    publish(session, 1, "gone")
    session.abort()
    assert pending(session) == []


def test_a_rolled_back_subtransaction_takes_its_messages_along() -> None:
    session = Session()
    publish(session, 1, "stays")
    publish(session, 2, "gone")
    session.abort_subtransaction(2)
    assert pending(session) == ["stays"]


def test_nothing_happens_to_a_transaction_that_has_not_begun() -> None:
    session, row = with_broker()
    session.abort_subtransaction(2)
    session.abort()
    session.end()
    assert session.transaction is None
    assert row.forgotten == 0


def test_whoever_was_permitted_by_what_is_rolled_back_is_looked_at_again() -> None:
    session = Session()
    session.permit(10, version=7, dated=False)
    session.end()
    # The GRANT that lets 11 in may be in the subtransaction.
    session.permit(11, version=8, dated=False)
    session.abort_subtransaction(3)
    assert session.permitted == {10: 7}
    session.permit(11, version=8, dated=False)
    session.abort()
    assert session.permitted == {10: 7}
    session.permit(11, version=8, dated=False)
    session.end()
    assert session.permitted == {10: 7, 11: 8}


def test_what_an_old_snapshot_says_is_good_for_one_transaction() -> None:
    session = Session()
    session.permit(10, version=7, dated=False)
    session.end()
    session.permit(11, version=8, dated=True)
    assert session.permitted == {10: 7, 11: 8}
    session.end()
    assert session.permitted == {10: 7}


def test_rows_are_read_again_when_a_change_to_them_is_rolled_back() -> None:
    session, row = with_broker()
    transaction = session.begun()
    transaction.let_publish(1, connection())
    session.change_rows(2)
    session.change_rows(4)
    session.change_rows(4)
    assert transaction.changed == (2, 4)
    session.abort_subtransaction(5)
    assert row.forgotten == 0
    assert 1 in transaction.publishing
    session.abort_subtransaction(4)
    assert row.forgotten == 1
    assert (transaction.usable, transaction.publishing) == ({}, {})
    session.abort_subtransaction(3)
    assert row.forgotten == 1
    session.abort()
    assert row.forgotten == 2


def test_rows_that_nobody_changed_are_not_read_again() -> None:
    session, row = with_broker()
    publish(session, 1, "gone")
    session.abort()
    session.change_rows(1)
    session.end()
    publish(session, 1, "gone")
    session.abort()
    assert row.forgotten == 0


def test_the_largest_frame_counts_of_the_connections_of_one_transaction() -> None:
    session = Session()
    transaction = session.begun()
    transaction.let_publish(1, connection(131072))
    transaction.forget_connection(1)
    assert (transaction.usable, transaction.publishing) == ({}, {})
    transaction.let_publish(1, connection(4096))
    transaction.let_publish(2, connection(4096))
    assert transaction.frame_max == {1: 131072, 2: 4096}
    session.end()
    session.begun().let_publish(1, connection(4096))
    assert session.begun().frame_max == {1: 4096}


def test_what_is_diverted_is_not_published() -> None:
    transaction = Transaction()
    transaction.let_publish(1, connection())
    transaction.divert(1)
    assert 1 not in transaction.publishing
    assert transaction.diverted == {1}


def test_tolerated_errors_are_counted_one_by_one() -> None:
    transaction = Transaction()
    assert [transaction.count_tolerated(text) for text in ("a", "b", "a", "a")] == [1, 1, 2, 3]
    assert transaction.tolerated == {"a": 3, "b": 1}
