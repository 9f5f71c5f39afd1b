"""This backend's brokers and its transaction: the state that the SQL functions share.

Pure: nothing here asks PostgreSQL, or a broker, for anything.
"""

from __future__ import annotations

from pg_amqp_py.backend.buffer import TransactionBuffer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pg_amqp_py.backend.broker import Broker
    from pg_amqp_py.wire.batch import Batch
    from pg_amqp_py.wire.channel import PublishingChannel


class Transaction:
    """What one transaction is to publish, and what it has learnt: all this ends with it."""

    # Tuples and the like, because nearly no transaction ever changes them, and every one that
    # publishes makes a new Transaction.
    diverted: frozenset[int] = frozenset()
    """Brokers whose messages it leaves to the outbox."""
    permitted: tuple[int, ...] = ()
    """Roles (OIDs) that it has found to have USAGE: perhaps by a GRANT of its own."""
    dated: tuple[int, ...] = ()
    """Those of them for which an old snapshot says so: good for this transaction only."""
    changed: tuple[int, ...] = ()
    """Its subtransactions that have changed amqp.broker."""

    def __init__(self) -> None:
        self.buffer = TransactionBuffer()
        self.usable: dict[int, PublishingChannel] = {}
        """Connections that it has looked after, by broker_id."""
        self.publishing: dict[int, PublishingChannel] = {}
        """Those of them on which publish() may go on."""
        self.frame_max: dict[int, int] = {}
        """Bytes of the largest frame with which it has encoded messages to a broker."""
        self.tolerated: dict[str, int] = {}
        """Errors that were to be WARNINGs, and how often each would have been."""

    def let_publish(self, broker_id: int, channel: PublishingChannel) -> None:
        """Publish to a broker from here on without looking at anything again."""
        self.usable[broker_id] = self.publishing[broker_id] = channel
        # What was encoded for a connection that this one replaces may be too large for it.
        frame_max = channel.encoder.frame_max
        if frame_max > self.frame_max.get(broker_id, 0):
            self.frame_max[broker_id] = frame_max

    def forget_connection(self, broker_id: int) -> None:
        """Look at the broker's row and connection again at the next call."""
        self.usable.pop(broker_id, None)
        self.publishing.pop(broker_id, None)

    def divert(self, broker_id: int) -> None:
        """Publish to a broker by way of the outbox from here on."""
        self.diverted |= {broker_id}
        self.publishing.pop(broker_id, None)

    def count_tolerated(self, error: str) -> int:
        """How often this error was tolerated, with this time."""
        times = self.tolerated[error] = self.tolerated.get(error, 0) + 1
        return times


class Session:
    """This backend: its brokers as long as it lives, and the transaction that it is in."""

    def __init__(self) -> None:
        self.brokers: dict[int, Broker] = {}
        """Those that it has used, by broker_id."""
        self.permitted: dict[int, int] = {}
        """catalog_version() at which a role (its OID) was found to have USAGE on schema amqp."""
        self.keeping = False
        """Whether messages of earlier transactions may still have to be delivered."""
        self.transaction: Transaction | None = None
        """None until the transaction has anything to do with the extension: most never have."""

    def begun(self) -> Transaction:
        """The transaction, which begins here if it has not yet."""
        if self.transaction is None:
            self.transaction = Transaction()
        return self.transaction

    def end(self) -> None:
        """The transaction is over, and with it whatever belongs to it."""
        if self.transaction is not None and self.transaction.dated:
            for role in self.transaction.dated:
                self.permitted.pop(role, None)
        self.transaction = None

    def abort(self) -> None:
        """The transaction is rolled back."""
        if self.transaction is not None:
            self._forget_permissions(self.transaction)
            self._forget_rows_since(0, self.transaction)
            self.transaction = None

    def abort_subtransaction(self, subtransaction: int) -> None:
        """A subtransaction is rolled back, with those within it."""
        if self.transaction is not None:
            self.transaction.buffer.abort(subtransaction)
            self._forget_permissions(self.transaction)
            self._forget_rows_since(subtransaction, self.transaction)

    def change_rows(self, subtransaction: int) -> None:
        """A subtransaction of the transaction has changed amqp.broker."""
        transaction = self.begun()
        if subtransaction not in transaction.changed[-1:]:
            transaction.changed += (subtransaction,)

    def permit(self, role: int, version: int, *, dated: bool) -> None:
        """Remember that a role was found to have USAGE at this catalog_version()."""
        self.permitted[role] = version
        transaction = self.begun()
        transaction.permitted += (role,)
        if dated:
            transaction.dated += (role,)

    def _forget_permissions(self, transaction: Transaction) -> None:
        """A GRANT may have gone with what is aborted."""
        for role in transaction.permitted:
            self.permitted.pop(role, None)
        transaction.permitted = ()

    def _forget_rows_since(self, subtransaction: int, transaction: Transaction) -> None:
        """A changed row that this session has read may never have been: read all of them again."""
        changed = transaction.changed
        if changed and changed[-1] >= subtransaction:
            transaction.changed = tuple(one for one in changed if one < subtransaction)
            transaction.usable.clear()
            transaction.publishing.clear()
            for broker in self.brokers.values():
                broker.forget_row()

    def keep(self, broker: Broker, batch: Batch, *, confirm: bool) -> None:
        """Keep what a commit could not settle."""
        broker.kept.add(batch, confirm=confirm)
        self.keeping = True

    def note_kept(self) -> None:
        """See whether anything is still kept."""
        self.keeping = any(broker.kept.batches for broker in self.brokers.values())


session = Session()
"""The one of this process."""
