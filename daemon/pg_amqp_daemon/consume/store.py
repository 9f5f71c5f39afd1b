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

from pg_amqp_daemon.consume.ahead import Ahead, Upcoming
from pg_amqp_daemon.consume.batch import Batch
from pg_amqp_daemon.consume.fault import Fault, fault_of
from pg_amqp_daemon.consume.inbox import Inbox
from pg_amqp_daemon.consume.plan import Plan, read_plan
from pg_amqp_daemon.consume.stage import CREATE, EMPTY
from pg_amqp_daemon.runtime.database import Database, first_line
from pg_amqp_py.wire.errors import MalformedError

_WHO = """
SELECT pg_catalog.current_setting('role'), pg_catalog.current_setting('search_path')
"""
_BECOME = """
SELECT pg_catalog.set_config('role', %s, false), pg_catalog.set_config('search_path', %s, false)
"""


_DURABLE = """
SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
WHERE pg_catalog.current_setting('synchronous_commit') = 'off'
"""


class _Changed(psycopg.errors.ObjectNotInPrerequisiteState):
    """No message is at fault: the next plan is another one."""


class Stored(NamedTuple):
    """What became of a batch."""

    stored: int = 0
    duplicates: int = 0
    skipped: int = 0
    without_id: int = 0
    sqlstates: tuple[str, ...] = ()
    """One for each that is dead."""

    def __add__(self, other: object) -> Stored:
        """The two together."""
        assert isinstance(other, Stored)
        return Stored(
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.skipped + other.skipped,
            self.without_id + other.without_id,
            self.sqlstates + other.sqlstates,
        )

    @property
    def dead(self) -> int:
        """How many were set aside."""
        return len(self.sqlstates)


class Store:
    """Of one consumer, in one session. Raises psycopg.Error where no message is at fault."""

    def __init__(self, database: Database, inbox: Inbox, upcoming: Upcoming) -> None:
        self._database = database
        self._inbox = inbox
        self._ahead: Ahead[bytes] = Ahead(upcoming)
        self._role = self._search_path = ""

    def prepare(self) -> None:
        """Make the stage of a new session."""
        self._database.ask(CREATE)
        # What a crash of the server could take back must not be acknowledged.
        self._database.ask(_DURABLE)
        ((self._role, self._search_path),) = self._database.ask(_WHO)

    def probe(self, plan: Plan) -> None:
        """Have the target take nothing: whatever that raises is not a message's fault."""
        ask = self._database.ask
        # Triggers of the statement may do something even for no row.
        ask("BEGIN")
        try:
            ask(plan.statement)
        finally:
            # Where the session is gone, so is the transaction.
            with suppress(psycopg.Error):
                ask("ROLLBACK")

    def _exculpate(self, plan: Plan) -> None:
        """Raise whatever keeps the target from taking anything, and what has changed of it."""
        self._check_plan(plan)
        self.probe(plan)

    def _check_plan(self, plan: Plan) -> None:
        found = read_plan(self._database, plan.name, is_stream=plan.is_stream)
        if found is None or not found.is_like(plan):
            raise _Changed("the consumer or its target has changed")

    def store(self, plan: Plan, batch: Batch, rewinds: int | None) -> Stored:
        """Store a batch. `rewinds` is given where it comes from a stream: see Inbox.advance().

        Raises LostError and RewoundError, having stored nothing.
        """
        try:
            return self._transaction(plan, batch, rewinds, lambda those: self._put(plan, those))
        except MalformedError:
            pass
        except psycopg.Error as error:
            if fault_of(error) is None:
                raise
            self._exculpate(plan)
        try:
            return self._transaction(
                plan, batch, rewinds, lambda those: self._sift_all(plan, those)
            )
        except psycopg.Error as error:
            fault = fault_of(error)
            if fault is None:
                raise
        # It is the COMMIT that fails, as a function can have it do: each part gets one of its own.
        if len(batch.deliveries) == 1:
            return self._transaction(
                plan, batch, rewinds, lambda one: self._set_aside(plan, one, fault)
            )
        first, second = batch.halves()
        return self.store(plan, first, rewinds) + self.store(plan, second, rewinds)

    def _transaction(
        self, plan: Plan, batch: Batch, rewinds: int | None, work: Callable[[Batch], Stored]
    ) -> Stored:
        with self._inbox.transaction():
            if batch.dead is not None:
                batch = self._inbox.still_asked_for(batch)
            done = work(batch) if batch.deliveries else Stored()
            self._inbox.count(done.stored, done.duplicates, done.skipped, done.without_id, batch.id)
            if rewinds is not None:
                self._inbox.advance(plan.queue, batch, rewinds)
        return done

    def _put(self, plan: Plan, batch: Batch) -> Stored:
        """In a transaction: stage messages and store them."""
        stage = plan.stage
        made, rest = self._ahead.take(stage, batch)
        rows = stage.rows(rest, len(batch.deliveries) - len(rest.deliveries))
        self._database.copy(stage.copy, stage.data(made or b"", rows))
        ((stored, without_id, is_the_target),), *_ = self._database.ask_all(
            (plan.statement,),
            # Who a function or a trigger has become would else do the rest, and the next batch.
            (_BECOME, self._role, self._search_path),
            # What else is checked at the COMMIT must be seen while it can be told whose it is.
            ("SET CONSTRAINTS ALL IMMEDIATE",),
            meanwhile=lambda: self._prepare_next(plan),
        )
        if not is_the_target:
            raise _Changed("the name of the target is another one's by now")
        if batch.dead is not None:
            self._inbox.revive(batch.dead)
        return Stored(stored, len(batch.deliveries) - stored, without_id=without_id)

    def _prepare_next(self, plan: Plan) -> None:
        # Whose message is malformed will be seen when they are stored.
        with suppress(MalformedError):
            self._ahead.make(plan.stage, plan.batch_size, plan.stage.rows)

    # -- one by one ------------------------------------------------------------------------

    def _sift_all(self, plan: Plan, batch: Batch) -> Stored:
        """In a transaction: store what can be stored, if the target has stayed what it was."""
        done = self._sift_parts(plan, batch)
        if done.dead:
            try:
                self._check_plan(plan)
                self._database.ask(plan.statement)
            except psycopg.Error as error:
                if fault_of(error) is None:
                    raise
                raise _Changed(first_line(error)) from error
        return done

    def _sift(self, plan: Plan, batch: Batch) -> Stored:
        """Store what can be stored of these messages, and set aside the others."""
        ask = self._database.ask
        ask("SAVEPOINT sift")
        try:
            done = self._put(plan, batch)
            ask(EMPTY)
            ask("RELEASE SAVEPOINT sift")
            return done
        except (psycopg.Error, MalformedError) as error:
            fault = fault_of(error)
            if fault is None:
                raise
        ask("ROLLBACK TO SAVEPOINT sift")
        ask("RELEASE SAVEPOINT sift")
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
        self._inbox.set_aside(plan, delivery, received, fault)
        if plan.reply_errors:
            self._if_possible(lambda: self._inbox.reply_error(plan.broker_id, delivery, fault))
        return Stored(sqlstates=(fault.sqlstate,))

    def _is_known(self, plan: Plan, batch: Batch) -> bool:
        """Whether the ledger has a message; from now on it has."""
        remember, stage = plan.remember, plan.remember_stage
        known = False

        def look() -> None:
            nonlocal known
            assert remember is not None
            assert stage is not None
            self._database.copy(stage.copy, stage.data(stage.rows(batch)))
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
        except (psycopg.Error, MalformedError) as error:
            if fault_of(error) is None:
                raise
            ask("ROLLBACK TO SAVEPOINT attempt")
        ask("RELEASE SAVEPOINT attempt")
