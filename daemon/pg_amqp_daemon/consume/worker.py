"""One consumer: become the one that works it, receive, store, acknowledge.

While a batch is stored, the receiver's thread receives the next one. Nothing is received before the
database has shown that it can be stored, and what was received is held as long as it cannot be.
"""

from __future__ import annotations

import time
from contextlib import suppress

import psycopg
import structlog

from pg_amqp_daemon.consume.batch import Batch
from pg_amqp_daemon.consume.fault import fault_of
from pg_amqp_daemon.consume.inbox import Inbox, LostError, Place, RewoundError
from pg_amqp_daemon.consume.influxdb.client import Unavailable
from pg_amqp_daemon.consume.metrics import ConsumeMetrics
from pg_amqp_daemon.consume.news import News
from pg_amqp_daemon.consume.plan import Plan, read_plan
from pg_amqp_daemon.consume.points import Invalid, PointStore
from pg_amqp_daemon.consume.receiver import Receiver
from pg_amqp_daemon.consume.record import Record
from pg_amqp_daemon.consume.store import Store
from pg_amqp_daemon.consume.subscription import Subscription
from pg_amqp_daemon.runtime.brokers import addresses_of_brokers
from pg_amqp_daemon.runtime.connection_name import connection_name
from pg_amqp_daemon.runtime.database import Database, first_line
from pg_amqp_daemon.runtime.session_worker import SessionWorker, trouble_of
from pg_amqp_py.wire.consume.arguments import Timestamp

_LOOK = 0.5
"""Seconds between looks at the row, the catalogs and what else may have changed."""
_FULL_LOOK = 10.0
"""Seconds after which all is looked at even if nobody has told that anything is new."""
_SOON = 0.05
"""Seconds between looks whether all is stored that is to be stored at the end."""
_STAND_BY = 0.5
_AGAIN = 0.5
"""Seconds between attempts where nobody is at fault but the target."""
_FORGET = 10_000
"""Messages that are forgotten at once."""
_FORGET_INTERVAL = 10.0
_FAREWELL = 1.0
_SETTINGS = {
    # What targets find by their names, they find as for everybody else of this role.
    "search_path": None,
    "statement_timeout": "55s",
    "jit": "off",
}
_PATIENCE = 60.0


def consume_database(dsn: str, part: str = "") -> Database:
    """A consumer's session, in which batches may take a minute.

    As long as the session is there, nobody else works the consumer.
    """
    return Database(dsn, "consume", part, _SETTINGS, _PATIENCE, own=True)


class Worker(SessionWorker):
    """A consumer, worked for ever."""

    def __init__(self, dsn: str, consumer: str, metrics: ConsumeMetrics, news: News) -> None:
        log = structlog.get_logger().bind(consumer=consumer)
        super().__init__(consume_database(dsn), "consume", f"consumer-{consumer}", log)
        self.working = False
        """Whether it is the one that works the consumer."""
        self._consumer = consumer
        self._news = news
        self._version: str | None = None
        """What the news said when all was looked at."""
        self._inbox = Inbox(self._database, consumer)
        self._receiver = Receiver(consumer, connection_name(f"consume {consumer}", dsn), log)
        upcoming = self._receiver.upcoming
        self._sql_store = Store(self._database, self._inbox, upcoming)
        self._point_store = PointStore(self._database, self._inbox, upcoming)
        self._plan: Plan | None = None
        self._fit = False
        """Whether the target has taken nothing, as it should, since the plan was made."""
        self._is_stream = False
        """Whether the queue is a stream, as far as it is known."""
        self._rewinds = 0
        self._due: int | None = None
        """The offset that a subscription to a stream must begin with."""
        self._subscription: Subscription | None = None
        self._subscriptions = 0
        self._in_doubt: Batch | None = None
        """A batch during whose COMMIT the session was lost."""
        self._target_trouble: str | None = None
        self._batch_trouble: str | None = None
        """Why a batch is not stored, though the target takes nothing without an error."""
        self._most = 1 << 15
        """Messages in a batch, where a whole one takes too long."""
        self._next_look = self._next_full_look = self._next_forgetting = self._not_before = 0.0
        self._record = Record(consumer, self._inbox, self._receiver, metrics, log)
        self.start()

    @property
    def trouble(self) -> str | None:
        """What keeps messages from being received or stored now."""
        ours = self.session_trouble or self._target_trouble or self._batch_trouble
        return ours or self._receiver.trouble

    @property
    def connected(self) -> bool:
        """Whether the broker is connected."""
        return self._receiver.connected

    @property
    def unacked(self) -> int:
        """Messages that are held."""
        return self._receiver.unacked

    @property
    def ready(self) -> int | None:
        """Messages that wait in the queue, as far as it is known; in a stream, all stay."""
        return None if self._receiver.is_stream else self._receiver.ready

    @property
    def alive(self) -> bool:
        """Whether its threads work."""
        return super().alive and self._receiver.alive

    # -- in the thread ---------------------------------------------------------------------

    def work_in_session(self) -> None:
        """Become the one that works the consumer, and do so until the session ends."""
        if not self._stand_by():
            return
        try:
            self._work_consumer()
        except Exception as error:
            # Who asks the database meanwhile sees no daemon: it must say why.
            with suppress(psycopg.Error):
                self._record.tell_now(trouble_of(error), self.ready)
            raise

    def _work_consumer(self) -> None:
        self._sql_store.prepare()
        self._settle_doubt()
        self._plan = None
        self._record.begin()
        self._look_soon()
        while not self._stopping.is_set():
            try:
                self._look()
                self._work_on(_LOOK)
            except LostError:
                self._log.warning("another session works the consumer")
                self._receiver.abandon()
                return
            except RewoundError:
                self._resubscribe()
        with suppress(LostError, RewoundError):
            self._drain()

    def on_session_end(self, failure: psycopg.Error | None) -> None:
        """Hold what was received for the next session."""
        self.working = False

    def on_end(self) -> None:
        """Say goodbye to the broker."""
        self._receiver.stop()
        self._receiver.join(_FAREWELL)

    def _stand_by(self) -> bool:
        """Wait until this session is the one that works the consumer; False: stop."""
        said = False
        while not self._inbox.take():
            if not self._inbox.held_by_us():
                # Whoever works it now gets what was received here.
                self._receiver.abandon()
            if not said:
                self._log.info("standing by: another session works the consumer")
                said = True
            self._well()
            if self._stopping.wait(_STAND_BY):
                return False
        self.working = True
        self._log.info("working the consumer")
        return True

    def _settle_doubt(self) -> None:
        """Find out whether the batch was stored during whose COMMIT the last session was lost."""
        batch, self._in_doubt = self._in_doubt, None
        # Dead messages that were not stored are still asked for.
        if batch is not None and batch.dead is None:
            if self._inbox.last_batch() == batch.id:
                self._receiver.ack(batch)
            else:
                self._receiver.put_back(batch)

    # -- what may have changed -------------------------------------------------------------

    def _look(self) -> None:
        """See what has changed, if it is time to: the row, the target, the broker, the stream."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK
        version = self._news.version(self._consumer)
        if version is None or version != self._version or now >= self._next_full_look:
            self._version, self._next_full_look = version, now + _FULL_LOOK
            self._look_at_all()
        elif not self._is_at_rest:
            self._look_at_all()
        else:
            self._database.prove()
        self._record.tell(self.trouble, self.ready)

    @property
    def _is_at_rest(self) -> bool:
        """Whether only news can change what is done."""
        receiver = self._receiver
        return (
            self._fit
            and self._batch_trouble is None
            and receiver.subscribed
            and receiver.is_stream is not None
            and receiver.is_stream == self._is_stream
        )

    def _look_soon(self) -> None:
        """Look at everything before anything else is stored."""
        self._next_look = self._next_full_look = 0.0

    def _look_at_all(self) -> None:
        if self._receiver.is_stream is not None:
            self._is_stream = self._receiver.is_stream
        try:
            plan = read_plan(self._database, self._consumer, is_stream=self._is_stream)
        except psycopg.Error as error:
            if fault_of(error) is None:
                raise
            plan = None
            self._unfit(error)
        if plan is None:
            # It is disabled or gone, which the watcher is to see, or does not fit its target.
            self._fit = False
        elif self._plan is None or not plan.is_like(self._plan):
            self._plan, self._fit = plan, False
        if plan is not None and not self._fit:
            self._probe(plan)
        hosts = addresses_of_brokers(self._database)
        if self._plan is not None:
            self._receiver.configure(hosts.get(self._plan.broker_id, []))
        if self._fit:
            self._see_to_subscription()
            self._retry()
            self._forget()

    def _store(self, plan: Plan) -> Store | PointStore:
        return self._sql_store if plan.influxdb is None else self._point_store

    def _probe(self, plan: Plan) -> None:
        if time.monotonic() < self._not_before:
            return
        try:
            self._store(plan).probe(plan)
        except (psycopg.Error, Unavailable, Invalid) as error:
            if self._is_lost(error):
                raise
            self._unfit(error)
        else:
            self._fit = True
            self._target_trouble = None
            self._well()

    def _is_lost(self, error: Exception) -> bool:
        """Whether it is the session that is gone."""
        return isinstance(error, psycopg.Error) and (
            error.sqlstate is None or self._database.broken
        )

    def _unfit(self, error: Exception) -> None:
        """The target takes nothing now, whatever it is given: look again a little later."""
        text = self._put_off(error)
        if text != self._target_trouble:
            self._log.warning("the target does not take anything", error=text)
        self._target_trouble = text

    def _put_off(self, error: Exception) -> str:
        """Store nothing for a little while; what the error says."""
        self._fit = False
        pause = error.retry_after if isinstance(error, Unavailable) else None
        self._not_before = time.monotonic() + max(pause or 0.0, _AGAIN)
        self._well()
        return first_line(error) if isinstance(error, psycopg.Error) else str(error)

    def _see_to_subscription(self) -> None:
        """Consume what the plan says, from where the stream was left."""
        assert self._plan is not None
        plan, old = self._plan, self._subscription
        place = self._place(plan)
        if self._receiver.subscribed and old is not None:
            same = (plan.queue, plan.prefetch) == (old.queue, old.prefetch)
            if same and (place is None or place.rewinds == self._rewinds):
                return
            if place is None or place.rewinds == self._rewinds:
                # What was received by the old row is stored first.
                self._drain()
                if not self._fit or self._stopping.is_set():
                    return
                place = self._place(plan)
        self._rewinds = 0 if place is None else place.rewinds
        self._due = None if place is None else place.next_offset
        self._subscriptions += 1
        self._subscription = Subscription(
            self._subscriptions, plan.queue, plan.prefetch, _start(place, plan), self._due
        )
        self._receiver.subscribe(self._subscription)

    def _place(self, plan: Plan) -> Place | None:
        """Where it is in the stream, unless the queue is none by now."""
        return None if self._receiver.is_stream is False else self._inbox.place(plan.queue)

    def _resubscribe(self) -> None:
        """Begin again, where the stream was rewound to."""
        self._receiver.abandon()
        self._look_soon()

    # -- storing ---------------------------------------------------------------------------

    def _work_on(self, timeout: float) -> None:
        """Store what comes next."""
        plan = self._plan
        if plan is None or not self._fit:
            self._stopping.wait(timeout)
            return
        most = min(plan.batch_size, self._most)
        batch = self._receiver.get(most, timeout, plan.batch_seconds)
        if batch is not None:
            self._store_batch(plan, batch)

    def _store_batch(self, plan: Plan, batch: Batch) -> None:
        """Store messages and acknowledge them; where nobody is at fault, they come again."""
        is_stream = self._receiver.is_stream
        if batch.dead is None and is_stream is not None and self._is_stream != is_stream:
            # Now it is known: the plan is another one.
            self._fit = False
            self._look_soon()
            self._receiver.put_back(batch)
            return
        if self._due is not None and batch.dead is None:
            batch = self._begin_with(self._due, batch)
            self._due = None
            if not batch.deliveries:
                return
        self._in_doubt = batch
        rewinds = self._rewinds if is_stream and batch.dead is None else None
        try:
            stored = self._store(plan).store(plan, batch, rewinds)
        except (LostError, RewoundError):
            self._in_doubt = None
            raise
        except (psycopg.Error, Unavailable) as error:
            if self._is_lost(error):
                raise
            self._in_doubt = None
            self._not_stored(error, batch)
            return
        self._in_doubt = None
        if batch.dead is None:
            self._receiver.ack(batch)
        self._most = min(self._most * 2, 1 << 15)
        self._target_trouble = self._batch_trouble = None
        self._well()
        self._record.count(stored)

    def _begin_with(self, due: int, batch: Batch) -> Batch:
        """What is due of the first messages from a stream that was read before."""
        first = batch.offset
        if first is not None and first < due:
            self._receiver.ack(batch.only([0]))
            return batch.only(range(1, len(batch.deliveries)))
        self._record.note_loss(due, batch)
        return batch

    def _not_stored(self, error: psycopg.Error | Unavailable, batch: Batch) -> None:
        """Nobody is at fault: try again a little later."""
        if batch.dead is None:
            self._receiver.put_back(batch)
        if isinstance(error, psycopg.errors.QueryCanceled):
            # It took too long, or was cancelled: fewer may do.
            self._most = max(min(self._most, len(batch.deliveries)) // 4, 1)
        text = self._put_off(error)
        if text != self._batch_trouble:
            self._log.warning("messages are not stored, and tried again", error=text)
        self._batch_trouble = text

    def _retry(self) -> None:
        """Try dead messages again that somebody has asked for."""
        assert self._plan is not None
        batch = self._inbox.asked_for(self._plan.batch_size)
        if batch is not None:
            self._store_batch(self._plan, batch)
            self._look_soon()
        elif not self._receiver.unacked:
            # Whoever had messages that could not be stored has them no more.
            self._batch_trouble = None

    def _forget(self) -> None:
        """Let the ledger forget what is too long ago, if it is time to."""
        assert self._plan is not None
        now = time.monotonic()
        if now < self._next_forgetting:
            return
        if self._inbox.forget(self._plan.deduplicate_for, _FORGET) == _FORGET:
            self._look_soon()
        else:
            self._next_forgetting = now + _FORGET_INTERVAL

    def _drain(self) -> None:
        """Have nothing more sent, and store and acknowledge what has come, as far as possible."""
        self._receiver.finish()
        while self._fit and not self._receiver.drained:
            self._database.prove()
            self._work_on(_SOON)


def _start(place: Place | None, plan: Plan) -> str | int | Timestamp:
    """Where a stream is to begin."""
    if place is not None and place.next_offset is not None:
        # One that was had before shows that the stream is the same, and reaches as far as it did.
        return max(place.next_offset - 1, 0)
    if place is not None and place.start_at is not None:
        return Timestamp(place.start_at)
    if isinstance(plan.start, dict):
        return Timestamp(plan.start["timestamp"])
    return "next" if plan.start is None else plan.start
