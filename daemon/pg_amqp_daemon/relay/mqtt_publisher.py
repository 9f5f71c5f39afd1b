"""The thread that publishes retained messages by MQTT, and the queues to it and from it.

It begins when there is a first such message, and only then loads paho-mqtt. RabbitMQ answers some
messages by closing the connection (MQTT 3.1.1 knows no other way to refuse), so what was under way
when that happened goes alone the next time.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pg_amqp_daemon.relay.mqtt_run import MqttRun
from pg_amqp_daemon.relay.outcome import Outcome
from pg_amqp_daemon.relay.retained_message import RetainedMessage
from pg_amqp_daemon.runtime.lease import Lease
from pg_amqp_daemon.runtime.logs import name_of
from pg_amqp_py.wire.address import Address
from pg_amqp_py.wire.backoff import Backoff

if TYPE_CHECKING:
    from pg_amqp_daemon.relay.mqtt_connection import MqttConnection

_PATIENCE = 10.0
"""Seconds without an answer after which what is under way is put off."""
_SLICE = 0.1
_REST = 30.0
"""Seconds without a message after which the connection is closed."""
_OLD = 3600.0
"""Seconds for which a broker that does not speak MQTT 5 is not asked whether it does."""
_STRIKES = 2
"""So often a message that goes alone must end a connection before it counts as refused."""
_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 10.0
NO_PAHO = "paho-mqtt is not installed; in a clone of the project: pip install '.[mqtt]'"


class _StoppedError(Exception):
    """Nobody is to wait for anything any more."""


class MqttPublisher:
    """Publishes retained messages to one broker while the lease is valid.

    `want` says whether there are any, `put` hands some over when it is `connected`, and `get`
    tells what became of them, as far as they could be published. What it does not tell of is to be
    handed over again. `name` is what the broker shows of its connections.
    """

    def __init__(self, broker_id: int, name: str, lease: Lease, log: Any) -> None:
        self.under_way = False
        """Whether messages were handed over and not got back."""
        self.trouble: str | None = None
        """Why there is no connection; None if there is, or nobody wants one."""
        self._name = name
        self._lease = lease
        self._log = log
        self._wanted = False
        self._addresses: list[Address] = []
        self._todo: queue.SimpleQueue[Sequence[RetainedMessage]] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._aborting = threading.Event()
        self._connection: MqttConnection | None = None
        self._used_at = 0.0
        self._old_since: dict[Address, float] = {}
        """When each broker that does not speak MQTT 5 was found to be so."""
        self._suspects: dict[tuple[int, str], int] = {}
        """What was under way when the broker closed a connection, and how often alone."""
        self._backoff = Backoff(_FIRST_BACKOFF, _LONGEST_BACKOFF, lambda: random.uniform(0.5, 1.0))
        self._thread = threading.Thread(target=self._work, name=f"mqtt-{broker_id}", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether messages may be handed over."""
        return self._connection is not None

    @property
    def alive(self) -> bool:
        """Whether its thread works, or was not needed yet."""
        return self._thread.ident is None or self._thread.is_alive()

    def configure(self, addresses: list[Address]) -> None:
        """Use these hosts, the first that answers: each has a store of retained messages."""
        self._addresses = addresses

    def want(self, wanted: bool) -> None:
        """Say whether there is anything to publish."""
        was_wanted, self._wanted = self._wanted, wanted
        if not wanted:
            self.trouble = None
        elif not was_wanted:
            if self._thread.ident is None and not self._stopping.is_set():
                self._thread.start()
            self._todo.put(())

    def put(self, messages: Sequence[RetainedMessage]) -> None:
        """Publish messages, in this order."""
        self.under_way = True
        self._todo.put(messages)

    def get(self) -> Outcome | None:
        """What became of messages; None if nothing is known now."""
        try:
            outcome = self._told.get_nowait()
        except queue.Empty:
            if not self._thread.is_alive():
                # It has ended before it came to them.
                self.under_way = False
            return None
        self.under_way = False
        return outcome

    def stop(self) -> None:
        """Publish no more; what is under way is still awaited."""
        self._stopping.set()
        self._todo.put(())

    def abort(self) -> None:
        """Wait for nothing any more."""
        self._aborting.set()
        self.stop()

    def join(self, timeout: float) -> None:
        """Wait until the connection is closed."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    # -- in the thread -----------------------------------------------------------------

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                self._turn()
            except _StoppedError:
                self._drop()
            except Exception as error:
                # A defect of ours must not end the thread.
                self._log.exception("MQTT failed", error=name_of(error))
                self.trouble = f"defect: {type(error).__name__}"
                self._drop()
                self._backoff.failed(time.monotonic())
        if self._connection is not None:
            self._connection.close()

    def _turn(self) -> None:
        """Publish what was handed over; else see to the connection."""
        try:
            messages = self._todo.get(timeout=_SLICE if self._wanted or self.connected else None)
        except queue.Empty:
            messages = ()
        if messages:
            self._publish(messages)
        else:
            self._see_to_connection()

    def _see_to_connection(self) -> None:
        connection = self._connection
        if connection is None:
            if self._wanted and not self._backoff.wait(time.monotonic()):
                self._open()
        elif time.monotonic() - self._used_at > _REST or connection.address not in self._addresses:
            connection.close()
            self._connection = None
        else:
            self._look(connection, 0.0)

    def _on_wait(self) -> None:
        if self._aborting.is_set() or not self._lease.valid:
            raise _StoppedError

    def _open(self) -> None:
        try:
            from pg_amqp_daemon.relay import mqtt_connection
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "paho":
                raise
            self._fail(NO_PAHO)
            return
        failure = "the broker has no row in amqp.broker"
        for address in self._addresses:
            versions = [mqtt_connection.MQTT_5, mqtt_connection.MQTT_3]
            if time.monotonic() - self._old_since.get(address, -_OLD) < _OLD:
                versions.pop(0)
            for version in versions:
                try:
                    self._connection = mqtt_connection.MqttConnection(
                        address, version, self._name, self._on_wait
                    )
                except mqtt_connection.MqttError as error:
                    failure = f"could not connect to {address} by MQTT: {error}"
                    if error.answered:
                        break
                else:
                    self._opened(address, len(versions) > 1 and version == versions[-1])
                    return
        self._fail(failure)

    def _opened(self, address: Address, is_old: bool) -> None:
        if is_old:
            self._old_since[address] = time.monotonic()
        self._backoff.succeeded()
        self._used_at = time.monotonic()
        self.trouble = None
        self._log.info("connected to broker by MQTT", host=str(address))

    def _fail(self, text: str) -> None:
        self._backoff.failed(time.monotonic())
        if text != self.trouble:
            self._log.warning("retained messages wait", error=text)
        self.trouble = text

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()

    def _look(self, connection: MqttConnection, timeout: float) -> None:
        """Notice that an idle connection has ended."""
        from pg_amqp_daemon.relay.mqtt_connection import MqttError

        try:
            connection.look(timeout)
        except MqttError as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self._log.warning("connection to broker by MQTT lost", error=str(error))
        self.trouble = f"the connection by MQTT was lost: {error}"
        self._drop()
        self._backoff.lost(time.monotonic())

    def _publish(self, messages: Sequence[RetainedMessage]) -> None:
        run = MqttRun(messages)
        try:
            if self._connection is not None:
                self._publish_on(self._connection, run)
        finally:
            self._told.put(Outcome(run.delivered, run.undelivered, run.message_ids, True))

    def _publish_on(self, connection: MqttConnection, run: MqttRun) -> None:
        from pg_amqp_daemon.relay.mqtt_connection import MqttError

        heard_at = time.monotonic()
        try:
            while run.left(stopped=self._stopping.is_set()):
                self._on_wait()
                while (message := run.next(self._suspects)) and not self._stopping.is_set():
                    self._write(connection, run, message)
                answers = connection.look(_SLICE)
                for answer in answers:
                    message = run.under_way.get(answer.number)
                    if message is not None:
                        self._suspects.pop((message.id, message.message_id), None)
                    run.answered(answer.number, answer.refusal, answer.busy)
                now = time.monotonic()
                if answers or not run.under_way:
                    heard_at = now
                elif now - heard_at > _PATIENCE:
                    run.give_up()
                    self._lose(MqttError("the broker does not answer messages"))
                    return
            self._used_at = time.monotonic()
        except MqttError as error:
            if error.closed:
                self._suspect(run, str(error))
            self._lose(error)

    def _write(self, connection: MqttConnection, run: MqttRun, message: RetainedMessage) -> None:
        try:
            number = connection.publish(message)
        except ValueError as error:
            run.refuse(message, "invalid", str(error))
        else:
            run.wrote(number, message)

    def _suspect(self, run: MqttRun, text: str) -> None:
        """One of those under way may have made the broker close the connection."""
        alone = len(run.under_way) == 1
        for message in list(run.under_way.values()):
            known = (message.id, message.message_id)
            strikes = self._suspects.get(known, 0) + alone
            self._suspects[known] = strikes
            if strikes >= _STRIKES:
                del self._suspects[known]
                run.refuse(message, "refused", f"{text}, at this message")
