"""This backend's brokers and its transaction: the state that the SQL functions share."""

from __future__ import annotations

import time

import plpy

from pg_amqp_py.backend import errors, server, settings
from pg_amqp_py.backend.broker import Broker
from pg_amqp_py.backend.buffer import TransactionBuffer
from pg_amqp_py.backend.commit import MOST_WARNINGS, deliver_committed, lost, ready
from pg_amqp_py.backend.errors import (
    CONNECTION_FAILURE,
    FEATURE_NOT_SUPPORTED,
    INTERNAL_ERROR,
    UNDEFINED_OBJECT,
    WARNING,
    AMQPError,
    warn,
)
from pg_amqp_py.backend.tables import read_addresses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pg_amqp_py.wire.connection import Connection

buffer = TransactionBuffer()
brokers: dict[int, Broker] = {}

_usable: dict[int, Connection] = {}
"""Connections that this transaction has looked after, by broker_id."""
_publishing: dict[int, Connection] = {}
"""Those of them on which publish() may go on."""
diverted: set[int] = set()
"""Brokers whose messages this transaction leaves to the outbox."""
permitted: dict[int, int] = {}
"""catalog_version() at which a role (its OID) was found to have USAGE on schema amqp."""
_permitted_now: list[int] = []
"""Roles that this transaction has found to: perhaps by a GRANT of its own."""
_changed: list[int] = []
"""Subtransactions of this transaction that have changed amqp.broker."""
_warned: dict[str, int] = {}
"""How often this transaction would have been warned of what."""


def broker(broker_id: int) -> Broker:
    """The broker with the row that it has now. Raises AMQPError (42704) if it has none.

    The row is only read again when it may have changed: a trigger on the table announces
    every change like one of the catalogs. Reading it costs as much as all the rest of a publish().
    """
    version = server.catalog_version()
    known = brokers.get(broker_id)
    if known is not None and known.read_at == version:
        return known
    addresses = read_addresses(broker_id)
    if not addresses:
        if known is not None:
            known.close()
        raise AMQPError(
            f"broker {broker_id} does not exist",
            sqlstate=UNDEFINED_OBJECT,
            detail=f'Table "amqp.broker" has no row with broker_id {broker_id}.',
            hint="Add one: SELECT amqp.add_broker('amqp://user:password@host/vhost');",
        )
    if known is None:
        known = brokers[broker_id] = Broker(broker_id)
    known.configure(addresses)
    # What an old snapshot shows may have changed since: good for this transaction only.
    known.read_at = version if server.sees_the_present() else None
    return known


def connection(broker_id: int) -> Connection:
    """The connection of a broker, looked after once in every transaction."""
    usable = _usable.get(broker_id)
    if usable is None:
        settings.check()
        timeout = settings.connect_timeout.value()
        usable = _usable[broker_id] = ready(broker(broker_id), timeout, server.check_interrupts)
    return usable


def set_aside(broker_id: int) -> None:
    """Ask on another connection than the one on which confirms are awaited."""
    known = brokers.get(broker_id)
    if known is not None and known.kept:
        connection(broker_id)
        known.set_aside()
        forget_connection(broker_id)


def reach(broker_id: int) -> Connection:
    """The connection of a broker for a question that nothing kept must go before."""
    settings.check()
    return broker(broker_id).ready(settings.connect_timeout.value(), server.check_interrupts)


def unchanged(broker_id: int | None, exchange: str) -> Connection | None:
    """The connection to publish on, if all is as it was when it was last used.

    This is how nearly every transaction begins; connection() and asking.publisher(), which find
    out and mend whatever is not, would cost it more than all the rest.
    """
    known = brokers.get(broker_id)  # type: ignore[arg-type]
    if known is None or known.kept or known.read_at != server.catalog_version():
        return None
    found = known.connection
    if found is None or found.blocked is not None or exchange not in found.exchanges:
        return None
    settings.check()
    if settings.on_failure.value() == "outbox" or not found.quiet():
        return None
    _usable[known.broker_id] = found
    let_publish(known.broker_id, found)
    return found


# The connection of a broker, if publish() has got it in this transaction already.
publishing_to = _publishing.get


def let_publish(broker_id: int, connection: Connection) -> None:
    """Let the rest of the transaction publish to a broker without looking at anything again."""
    known, frame_max = brokers[broker_id], connection.encoder.frame_max
    # What was encoded for a connection that this one replaces may be too large for it.
    known.frame_max = max(known.frame_max, frame_max) if buffer else frame_max
    _publishing[broker_id] = connection
    if settings.synchronous_commit.value():
        # Whoever receives the message must not find its row gone after a crash of this server.
        server.force_sync_commit()
        if not server.synchronous_commit.value:
            # Nor what this session has committed before.
            server.flush_wal()


def divert(broker_id: int) -> None:
    """Let the rest of the transaction publish to a broker by way of the outbox."""
    diverted.add(broker_id)
    _publishing.pop(broker_id, None)


def count_failure(broker_id: int | None) -> None:
    """Count a message that was not taken."""
    known = brokers.get(broker_id)  # type: ignore[arg-type]
    if known is not None:
        known.failed += 1


def deadline() -> float:
    """time.monotonic() until which a broker may take to answer a question."""
    timeout: float = settings.connect_timeout.value()
    return time.monotonic() + timeout


def forget_connection(broker_id: int) -> None:
    """Look at the broker's row and connection again at the next call."""
    _usable.pop(broker_id, None)
    _publishing.pop(broker_id, None)


def broker_table_changed(relation: int) -> None:
    """Let every session read amqp.broker (its OID) again from its next transaction on."""
    _changed.append(server.current_subtransaction())
    server.announce_change(relation)


def warn_once(error: AMQPError) -> None:
    """Report an error as a WARNING; the same one is only counted for the rest of a transaction."""
    times = _warned[str(error)] = _warned.get(str(error), 0) + 1
    if times == 1:
        error.warn()


def _warn_of_the_rest() -> None:
    """Say how many calls failed in silence: a bulk statement may make many thousands."""
    if not _warned:
        return
    repeated = sorted(_warned.items(), key=lambda item: item[1], reverse=True)
    for text, times in repeated[:MOST_WARNINGS]:
        if times > 1:
            warn(f"{times - 1} more calls failed: {text}", sqlstate=WARNING)


def _end() -> None:
    if buffer:
        buffer.clear()
    if _usable:
        _usable.clear()
        _publishing.clear()
    if _warned or diverted or _changed or _permitted_now:
        _warned.clear()
        diverted.clear()
        _changed.clear()
        _permitted_now.clear()


def _on_abort() -> None:
    _forget_permissions()
    _forget_rows_since(0)
    _end()


def permit(role: int, version: int) -> None:
    """Remember that a role was found to have USAGE at this catalog_version()."""
    permitted[role] = version
    _permitted_now.append(role)


def _forget_permissions() -> None:
    """A GRANT may have gone with what is aborted."""
    if _permitted_now:
        for role in _permitted_now:
            permitted.pop(role, None)
        _permitted_now.clear()


def _forget_rows_since(subtransaction: int) -> None:
    """A changed row that this session has read may never have been: read all of them again."""
    if _changed and _changed[-1] >= subtransaction:
        _changed[:] = [earlier for earlier in _changed if earlier < subtransaction]
        _usable.clear()
        _publishing.clear()
        for known in brokers.values():
            known.read_at = None


def _keeps() -> bool:
    """Whether messages of earlier transactions are still to be delivered."""
    for known in brokers.values():  # noqa: SIM110 -- at every commit: any() would cost twice as much
        if known.kept:
            return True
    return False


def _give_warning(message: str, **fields: str) -> None:
    # A WARNING is converted to the client's encoding, too, and what that lacks is an ERROR.
    plain = errors.UTF8 and server.client_encoding() == b"UTF8"
    (plpy.warning if plain else server.warning)(message, **fields)


def _on_commit() -> None:
    if not buffer and not _warned and not _keeps():
        # Nearly every transaction: a session goes on to do other things.
        _end()
        return
    errors.give_warning = _give_warning
    try:
        deliver_committed(buffer.outgoing(), brokers)
        _warn_of_the_rest()
    except BaseException as error:
        # The transaction is committed: an ERROR would be a PANIC.
        warn(f"publishing at commit failed: {error!r}", sqlstate=INTERNAL_ERROR)
    finally:
        errors.give_warning = plpy.warning
        _end()


def _on_pre_prepare() -> None:
    if not buffer.sends():
        return
    # First: a cancel request that is pending may keep the warning from being given.
    server.refuse_prepare()
    try:
        warn(
            "a transaction with messages pending cannot be prepared",
            sqlstate=FEATURE_NOT_SUPPORTED,
            detail=f"Messages pending: {len(buffer)}. They wait for the commit, which may run in"
            " another session.",
            hint="Publish outside of two-phase transactions.",
        )
    except BaseException:
        pass


def _on_abort_subtransaction(subtransaction: int) -> None:
    buffer.abort(subtransaction)
    _forget_permissions()
    _forget_rows_since(subtransaction)


def _on_leave() -> None:
    for known in brokers.values():
        if known.kept:
            server.log(lost(known), sqlstate=CONNECTION_FAILURE)
        if known.connection is not None:
            known.connection.leave()


server.register(
    commit=_on_commit,
    abort=_on_abort,
    pre_prepare=_on_pre_prepare,
    abort_subtransaction=_on_abort_subtransaction,
    leave=_on_leave,
)
