"""The running PostgreSQL server's own C functions, through ctypes: the only module that uses it.

PL/Python offers no way to act at commit, so PostgreSQL's is used (src/backend/access/transam/
xact.c, section "callbacks"). Everything here is exported with the same signature and the same
numbers by every supported major version; what is missing is reported at import.

Rules for this module: a C function must not be called where it can raise an ERROR, because that
would jump over Python's frames; a callback must not let an exception escape.
"""

from __future__ import annotations

import ctypes

import plpy

from pg_amqp_py.backend.errors import (
    DUPLICATE_OBJECT,
    FEATURE_NOT_SUPPORTED,
    INVALID_TRANSACTION_STATE,
    AMQPError,
    Stage,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# XactEvent (src/include/access/xact.h)
_XACT_COMMIT, _XACT_ABORT, _XACT_PREPARE, _XACT_PRE_PREPARE = 0, 2, 4, 7
# SubXactEvent
_SUBXACT_ABORT = 2
# Error levels (src/include/utils/elog.h)
_LOG_SERVER_ONLY, _WARNING = 16, 19
# XactIsoLevel
_READ_COMMITTED = 1
# GucContext: whoever likes may set it; a flag that every placeholder has (src/include/utils/guc.h)
_PGC_USERSET, _GUC_NO_SHOW_ALL = 6, 4
# MyXactFlags: "this transaction accessed a temporary object"
_ACCESSED_TEMP_NAMESPACE = 1
# SizeOfXLogLongPHD (src/include/access/xlog_internal.h)
_PAGE_HEADER = 40
# SetUserIdAndSecContext (src/include/miscadmin.h)
_SECURITY_RESTRICTED_OPERATION = 2

# PYFUNCTYPE and PyDLL keep the interpreter lock, which PL/Python never gives away.
_XactCallback = ctypes.PYFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)
_SubXactCallback = ctypes.PYFUNCTYPE(
    None, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p
)
_ExitCallback = ctypes.PYFUNCTYPE(None, ctypes.c_int, ctypes.c_size_t)

_server = ctypes.PyDLL(None)


def _missing(name: str) -> AMQPError:
    return AMQPError(
        f'the server does not export "{name}"',
        sqlstate=FEATURE_NOT_SUPPORTED,
        detail="pg_amqp_py needs it to follow transactions.",
    )


def _variable(name: str, kind: Any) -> Any:
    try:
        return kind.in_dll(_server, name)
    except ValueError:
        raise _missing(name) from None


def _function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = getattr(_server, name)
    except AttributeError:
        raise _missing(name) from None
    function.restype = result  # type: ignore[attr-defined]
    if arguments:
        function.argtypes = arguments  # type: ignore[attr-defined]
    return function


current_subtransaction: Callable[[], int] = _function("GetCurrentSubTransactionId", ctypes.c_uint32)
"""Id of the innermost subtransaction; ids only grow within a transaction, the top one is 1."""

current_user: Callable[[], int] = _function("GetUserId", ctypes.c_uint32)
"""OID of the role whose rights count now."""

_register_xact = _function("RegisterXactCallback", None, _XactCallback, ctypes.c_void_p)
_register_subxact = _function("RegisterSubXactCallback", None, _SubXactCallback, ctypes.c_void_p)
_on_proc_exit = _function("on_proc_exit", None, _ExitCallback, ctypes.c_size_t)
_get_option = _function(
    "GetConfigOption", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_bool, ctypes.c_bool
)
_option_flags = _function("GetConfigOptionFlags", ctypes.c_int, ctypes.c_char_p, ctypes.c_bool)
_define_option = _function(
    "DefineCustomStringVariable",
    None,
    *[ctypes.c_char_p] * 3,
    ctypes.POINTER(ctypes.c_char_p),
    ctypes.c_char_p,
    *[ctypes.c_int] * 2,
    *[ctypes.c_void_p] * 3,
)
_get_user = _function(
    "GetUserIdAndSecContext",
    None,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.POINTER(ctypes.c_int),
)
_in_parallel_mode = _function("IsInParallelMode", ctypes.c_bool)
force_sync_commit: Callable[[], None] = _function("ForceSyncCommit", None)
"""Have the commit of this transaction wait for the disk, whatever synchronous_commit says."""

synchronous_commit = _variable("synchronous_commit", ctypes.c_int)
"""Its value is 0 where it is off (src/include/access/xact.h)."""
_wal_flush = _function("XLogFlush", None, ctypes.c_uint64)
_wal_end = _function("GetXLogInsertRecPtr", ctypes.c_uint64)

restore_user = _function("SetUserIdAndSecContext", None, ctypes.c_uint32, ctypes.c_int)
begin_settings: Callable[[], int] = _function("NewGUCNestLevel", ctypes.c_int)
"""From here on changes of settings last until end_settings(False, what this returns)."""
end_settings = _function("AtEOXact_GUC", None, ctypes.c_bool, ctypes.c_int)
_invalidate_relation = _function("CacheInvalidateRelcacheByRelid", None, ctypes.c_uint32)
_xact_flags = _variable("MyXactFlags", ctypes.c_int)
# ereport() as the compiler takes it apart (src/include/utils/elog.h).
_errstart = _function("errstart", ctypes.c_bool, ctypes.c_int, ctypes.c_char_p)
_errcode = _function("errcode", ctypes.c_int, ctypes.c_int)
_errmsg = _function("errmsg_internal", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
_errdetail = _function("errdetail_internal", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
_errhint = _function("errhint", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
_errfinish = _function("errfinish", None, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p)
_die_pending = _variable("ProcDiePending", ctypes.c_int)
_cancel_pending = _variable("QueryCancelPending", ctypes.c_int)
_barrier_pending = _variable("ProcSignalBarrierPending", ctypes.c_int)
_isolation = _variable("XactIsoLevel", ctypes.c_int)
invalidations = _variable("SharedInvalidMessageCounter", ctypes.c_uint64)
"""Its value is catalog_version()."""

_wal_block_size = int(_get_option(b"wal_block_size", False, False))

_options: dict[str, ctypes.c_char_p] = {}
"""Settings of ours that the server knows, and where it puts their values."""
_kept: list[Any] = []
"""What PostgreSQL holds bare pointers to until the process ends."""


def refuse_parallel_mode() -> None:
    """Raise AMQPError in a parallel query, before any SPI call.

    PL/Python cannot begin its subtransactions there: an ERROR would jump over Python's frames, and
    the next call would crash the server. From PostgreSQL 17 on it can, and what a worker would
    publish would be lost with it.
    """
    if _in_parallel_mode():
        raise AMQPError(
            "cannot use pg_amqp_py in a parallel query",
            sqlstate=INVALID_TRANSACTION_STATE,
            hint="Declare the function that calls it PARALLEL UNSAFE, which is the default.",
        )


def flush_wal() -> None:
    """Make everything that is committed by now survive a crash, as a commit does for itself.

    What a transaction with synchronous_commit = off has committed is visible before it is on disk.
    """
    end: int = _wal_end()
    # Where the next record will begin: on a new page that is behind its header, which is not there
    # yet, and to flush what is not there would be an ERROR.
    within_page = end % _wal_block_size
    _wal_flush(end - within_page if within_page <= _PAGE_HEADER else end)


def client_encoding() -> bytes | None:
    """The encoding that the client's messages are converted to; may be asked everywhere."""
    encoding: bytes | None = _get_option(b"client_encoding", True, False)
    return encoding


def define_option(name: str, default: str, description: str) -> ctypes.c_char_p:
    """Make a setting of ours known to the server, which then keeps the result's `value` up to date.

    Looking there costs a tenth of what GetConfigOption() does, and it is done for every message. A
    value that was set before, or for the role or the database, is taken over.
    """
    if name in _options:
        # What came after it failed to load, and is tried again.
        return _options[name]
    known = _get_option(name.encode(), True, False) is not None
    if known and not _option_flags(name.encode(), True) & _GUC_NO_SHOW_ALL:
        # Defining it again would be an ERROR.
        raise AMQPError(
            f'parameter "{name}" is defined by another library',
            sqlstate=DUPLICATE_OBJECT,
            hint="Look for it in session_preload_libraries and shared_preload_libraries.",
        )
    value = _options[name] = ctypes.c_char_p()
    # The server keeps pointers to these, and puts the default in force again, whenever it likes.
    texts = name.encode(), description.encode(), None
    start = default.encode()
    _kept.append((texts, start))
    hooks = None, None, None
    _define_option(*texts, ctypes.byref(value), start, _PGC_USERSET, 0, *hooks)
    return value


def interrupted() -> bool:
    """Whether this backend was told to end, or to cancel what it does, and has not obeyed yet.

    For the commit callback, where interrupts are held off (src/include/miscadmin.h).
    """
    return bool(_die_pending.value or _cancel_pending.value)


def barrier_pending() -> bool:
    """Whether the server waits for this backend to take part in something that all must."""
    return bool(_barrier_pending.value)


class Statement:
    """A statement, prepared when it is first executed: most sessions need few of them."""

    __slots__ = ("_plan", "_query", "_types")

    def __init__(self, query: str, *types: str) -> None:
        self._query = query
        self._types = types
        """Names of the parameters' types in pg_catalog."""
        self._plan: plpy.Plan | None = None

    def __call__(self, *arguments: object) -> plpy.Result:
        """Execute it."""
        if self._plan is None:
            self._plan = plpy.prepare(self._query, [f"pg_catalog.{name}" for name in self._types])
        return plpy.execute(self._plan, arguments)


_look_for_interrupts = Statement("SELECT")


def check_interrupts() -> None:
    """Raise what pg_cancel_backend, statement_timeout or a shutdown asks for, if anything does.

    The executor looks for interrupts while it runs even the emptiest query.
    """
    _look_for_interrupts()


class _InCall(Stage):
    """A call: a WARNING goes where every other goes, and a wait ends as any statement does."""

    __slots__ = ()
    on_wait = staticmethod(check_interrupts)

    def give_warning(self, text: str, **fields: str) -> None:
        plpy.warning(text, **fields)


IN_CALL = _InCall()


def switch_user(role: int) -> tuple[int, int]:
    """Go on with the rights of `role` (an OID) and no way to gain others.

    Returns what restore_user() takes. This is what PostgreSQL does for VACUUM, REINDEX and REFRESH
    MATERIALIZED VIEW.
    """
    user, context = ctypes.c_uint32(), ctypes.c_int()
    _get_user(ctypes.byref(user), ctypes.byref(context))
    restore_user(role, context.value | _SECURITY_RESTRICTED_OPERATION)
    return user.value, context.value


def catalog_version() -> int:
    """A number that is another one whenever this backend has learnt of a change to the catalogs.

    Every transaction begins by taking in what others have changed (src/backend/storage/ipc/
    sinval.c), and what this backend changed itself comes back to it in the same way.
    """
    version: int = invalidations.value
    return version


def sees_the_present() -> bool:
    """Whether queries see what is committed now, not what was when the transaction began."""
    level: int = _isolation.value
    return level <= _READ_COMMITTED


def warning(
    message: str, *, sqlstate: str, detail: str | None = None, hint: str | None = None
) -> None:
    """Report a WARNING at commit, in ASCII, where plpy.warning() cannot.

    plpy.warning() converts its texts to the encoding of the database, unless that is UTF-8, and
    there are no conversions outside of a transaction: it would raise an ERROR. For the commit
    callback only, where interrupts are held off: anywhere else the report may be interrupted.
    """
    _ereport(_WARNING, message, sqlstate, detail, hint)


def log(message: str, *, sqlstate: str) -> None:
    """Write a line to the server's log alone, in ASCII, at the end of the process."""
    _ereport(_LOG_SERVER_ONLY, message, sqlstate)


def _ereport(
    level: int, message: str, sqlstate: str, detail: str | None = None, hint: str | None = None
) -> None:
    if not _errstart(level, None):
        return
    _errcode(sum((ord(c) - ord("0") & 0x3F) << 6 * at for at, c in enumerate(sqlstate)))
    for report, text in (_errmsg, message), (_errdetail, detail), (_errhint, hint):
        if text is not None:
            report(b"%s", text.encode("ascii", "backslashreplace"))
    _errfinish(b"pg_amqp_py", 0, b"report")


def announce_change(relation: int) -> None:
    """Change every backend's catalog_version() when this transaction commits.

    `relation` is the OID of a table that this transaction has locked: the message is the one that
    ALTER TABLE sends.
    """
    _invalidate_relation(relation)


def refuse_prepare() -> None:
    """Make PostgreSQL refuse the PREPARE TRANSACTION that is under way.

    A callback cannot raise an ERROR from Python. PostgreSQL itself does, right after the
    callbacks, if the transaction is marked as having used temporary objects.
    """
    _xact_flags.value |= _ACCESSED_TEMP_NAMESPACE


def register(
    *,
    commit: Callable[[], None],
    abort: Callable[[], None],
    pre_prepare: Callable[[], None],
    abort_subtransaction: Callable[[int], None],
    leave: Callable[[], None],
) -> None:
    """Have the functions called for every transaction of this backend, and at its end.

    `commit` runs after the transaction is durable and visible and before its locks are
    released: an exception there would be a PANIC, so none may escape; there is no SPI.
    """
    steps = {
        _XACT_COMMIT: commit,
        _XACT_ABORT: abort,
        _XACT_PREPARE: abort,
        _XACT_PRE_PREPARE: pre_prepare,
    }

    def on_xact(event: int, _: Any) -> None:
        if event in steps:
            steps[event]()

    def on_subxact(event: int, subtransaction: int, _parent: int, _: Any) -> None:
        if event == _SUBXACT_ABORT:
            abort_subtransaction(subtransaction)

    def on_exit(_code: int, _: Any) -> None:
        leave()

    callbacks = _XactCallback(on_xact), _SubXactCallback(on_subxact), _ExitCallback(on_exit)
    _kept.append(callbacks)
    _register_xact(callbacks[0], None)
    _register_subxact(callbacks[1], None)
    _on_proc_exit(callbacks[2], 0)
