"""Stores batches in the database: each in one transaction, and of each what can be stored.

The whole batch is tried at once. If PostgreSQL refuses it, the target is probed with nothing: where
that fails, no message is at fault. Otherwise the batch is halved, in savepoints, until those that
are at fault stand alone; they are set aside, and the others are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psycopg

from pg_amqp_daemon.consume.batch import Batch
from pg_amqp_daemon.consume.fault import Fault, fault_of
from pg_amqp_daemon.consume.inbox import Inbox
from pg_amqp_daemon.consume.plan import Plan
from pg_amqp_daemon.consume.stage import CREATE, EMPTY
from pg_amqp_daemon.runtime.database import Database
from pg_amqp_py.wire.errors import MalformedError

_MALFORMED = "22P03"
"""invalid_binary_representation"""


class Stored(NamedTuple):
    """What became of a batch."""

    stored: int = 0
    duplicates: int = 0
    dead: int = 0
    skipped: int = 0
    without_id: int = 0

    def __add__(self, other: object) -> Stored:
        """The two together."""
        assert isinstance(other, Stored)
        return Stored(*(a + b for a, b in zip(self, other, strict=True)))


class Store:
    """Of one consumer, in one session. Raises psycopg.Error where no message is at fault."""

    def __init__(self, database: Database, inbox: Inbox) -> None:
        self._database = database
        self._inbox = inbox

    def prepare(self) -> None:
        """Make the stage of a new session."""
        self._database.ask(CREATE)

    def probe(self, plan: Plan) -> None:
        """Have the target take nothing: whatever that raises is not a message's fault."""
        self._database.ask(plan.statement)

    def store(self, plan: Plan, batch: Batch, rewinds: int | None) -> Stored:
        """Store a batch. `rewinds` is given where it comes from a stream: see Inbox.advance().

        Raises LostError and RewoundError, having stored nothing.
        """
        try:
            return self._transaction(batch, plan.queue, rewinds, lambda: self._put(plan, batch))
        except MalformedError:
            pass
        except psycopg.Error as error:
            if fault_of(error) is None:
                raise
            self.probe(plan)
        try:
            return self._transaction(
                batch, plan.queue, rewinds, lambda: self._sift_parts(plan, batch)
            )
        except psycopg.Error as error:
            fault = fault_of(error)
            if fault is None:
                raise
        # It is the COMMIT that fails, as a function can have it do: each part gets one of its own.
        if len(batch.deliveries) == 1:
            return self._transaction(
                batch, plan.queue, rewinds, lambda: self._set_aside(plan, batch, fault)
            )
        first, second = batch.halves()
        return self.store(plan, first, rewinds) + self.store(plan, second, rewinds)

    def _transaction(
        self, batch: Batch, queue: str, rewinds: int | None, work: Callable[[], Stored]
    ) -> Stored:
        ask = self._database.ask
        ask("BEGIN")
        try:
            done = work()
            self._inbox.count(done.stored, done.duplicates, done.skipped, done.without_id, batch.id)
            if rewinds is not None and batch.next_offset is not None:
                self._inbox.advance(queue, batch.next_offset, rewinds)
            ask("COMMIT")
        except BaseException:
            # Where the session is gone, so is the transaction.
            with suppress(psycopg.Error):
                ask("ROLLBACK")
            raise
        return done

    def _put(self, plan: Plan, batch: Batch) -> Stored:
        """In a transaction: stage messages and store them."""
        self._database.copy(plan.stage.copy, plan.stage.rows(batch))
        ((stored, without_id),) = self._database.ask(plan.statement)
        # What else is checked at the COMMIT must be seen while it can be told whose it is.
        self._database.ask("SET CONSTRAINTS ALL IMMEDIATE")
        if batch.dead is not None:
            self._inbox.revive(batch.dead)
        return Stored(stored, len(batch.deliveries) - stored, without_id=without_id)

    # -- one by one ------------------------------------------------------------------------

    def _sift(self, plan: Plan, batch: Batch) -> Stored:
        """Store what can be stored of these messages, and set aside the others."""
        ask = self._database.ask
        ask("SAVEPOINT sift")
        try:
            done = self._put(plan, batch)
            ask(EMPTY)
            ask("RELEASE SAVEPOINT sift")
            return done
        except MalformedError as error:
            fault: Fault | None = Fault(_MALFORMED, str(error))
        except psycopg.Error as error:
            fault = fault_of(error)
            if fault is None:
                raise
        ask("ROLLBACK TO SAVEPOINT sift")
        ask("RELEASE SAVEPOINT sift")
        assert fault is not None
        if len(batch.deliveries) == 1:
            return self._set_aside(plan, batch, fault)
        return self._sift_parts(plan, batch)

    def _sift_parts(self, plan: Plan, batch: Batch) -> Stored:
        if len(batch.deliveries) == 1:
            return self._sift(plan, batch)
        first, second = batch.halves()
        return self._sift(plan, first) + self._sift(plan, second)

    def _set_aside(self, plan: Plan, batch: Batch, fault: Fault) -> Stored:
        """In a transaction: keep the one message of this batch, unless it is a copy."""
        (delivery,), (received,) = batch.deliveries, batch.received
        if batch.dead is not None:
            self._inbox.set_aside_again(batch.dead[0], fault)
            return Stored()
        if self._is_known(plan, batch):
            return Stored(duplicates=1)
        self._inbox.set_aside(plan.broker_id, plan.queue, delivery, received, fault)
        if plan.reply_errors:
            self._if_possible(lambda: self._inbox.reply_error(plan.broker_id, delivery, fault))
        return Stored(dead=1)

    def _is_known(self, plan: Plan, batch: Batch) -> bool:
        """Whether the ledger has a message; from now on it has."""
        remember, stage = plan.remember, plan.remember_stage
        known = False

        def look() -> None:
            nonlocal known
            assert remember is not None
            assert stage is not None
            self._database.copy(stage.copy, stage.rows(batch))
            ((keys, fresh),) = self._database.ask(remember)
            known = keys > fresh
            self._database.ask(EMPTY)

        if remember is not None:
            # What tells a copy may itself be what is wrong.
            self._if_possible(look)
        return known

    def _if_possible(self, work: Callable[[], None]) -> None:
        """Do this, unless the message is at fault once more."""
        ask = self._database.ask
        ask("SAVEPOINT attempt")
        try:
            work()
        except MalformedError:
            ask("ROLLBACK TO SAVEPOINT attempt")
        except psycopg.Error as error:
            if fault_of(error) is None:
                raise
            ask("ROLLBACK TO SAVEPOINT attempt")
        ask("RELEASE SAVEPOINT attempt")
