"""Errors and WARNINGs as PostgreSQL reports them: SQLSTATE, DETAIL and HINT."""

from __future__ import annotations

import plpy

from pg_amqp_py.wire import errors as wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    Value = TypeVar("Value")

# SQLSTATE codes: PostgreSQL documentation, appendix A.
WARNING = "01000"
CONNECTION_FAILURE = "08006"
CANNOT_CONNECT = "08001"
CONNECTION_REJECTED = "08004"
PROTOCOL_VIOLATION = "08P01"
FEATURE_NOT_SUPPORTED = "0A000"
NULL_NOT_ALLOWED = "22004"
BAD_CHARACTER = "22021"
TOO_LONG = "22001"
NUMBER_OUT_OF_RANGE = "22003"
TIME_OUT_OF_RANGE = "22008"
INVALID_PARAMETER = "22023"
INVALID_TRANSACTION_STATE = "25000"
INVALID_PASSWORD = "28P01"
TOO_MANY_CONNECTIONS = "53300"
INSUFFICIENT_PRIVILEGE = "42501"
DUPLICATE_OBJECT = "42710"
UNDEFINED_OBJECT = "42704"
UNTRANSLATABLE = "22P05"
UNDEFINED_TABLE = "42P01"
WRONG_OBJECT_TYPE = "42809"
INSUFFICIENT_RESOURCES = "53000"
LIMIT_EXCEEDED = "54000"
WRONG_STATE = "55000"
IN_USE = "55006"
SYSTEM_ERROR = "58000"
LOCK_NOT_AVAILABLE = "55P03"
INTERNAL_ERROR = "XX000"
# Ours: nobody else may begin with a letter from I on.
NO_ANSWER = "MQ001"
NOT_CONSUMED = "MQ002"
UNROUTABLE = "MQ003"


SHOWS_BYTES = BAD_CHARACTER, UNTRANSLATABLE
"""PostgreSQL's own texts with these show bytes of what they complain of."""

UTF8: bool = (
    plpy.execute("SELECT pg_catalog.getdatabaseencoding() AS encoding")[0]["encoding"] == "UTF8"
)


def showable(text: str) -> str:
    """The text in characters that this database can surely represent; others are escaped.

    PL/Python converts what it reports to the encoding of the database, and where that fails it
    raises an ERROR that no Python code can catch: at commit, a PANIC of the whole server. Texts
    come from the broker and may hold anything.
    """
    return text.encode("utf-8" if UTF8 else "ascii", "backslashreplace").decode().replace("\0", "")


class AMQPError(plpy.Error):
    """Raised to the user. PL/Python puts the class's name before the message.

    Hence the name given to it below: `amqp: broker 7 does not exist` reads better than
    `pg_amqp_py.backend.errors.AMQPError: broker 7 does not exist`.
    """

    def __init__(
        self,
        message: str,
        *,
        sqlstate: str,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(showable(message))
        self.sqlstate = sqlstate
        self.detail = None if detail is None else showable(detail)
        self.hint = None if hint is None else showable(hint)

    def in_one_line(self) -> str:
        """The message and its detail, for a column that has room for one text."""
        return f"{self}: {self.detail}" if self.detail else str(self)


AMQPError.__name__ = "amqp"
AMQPError.__module__ = "builtins"


class Stage:
    """Where in a transaction this runs, in a call or at its commit.

    It decides how a WARNING is given, and what may happen while a broker is waited for.
    """

    __slots__ = ()

    def on_wait(self) -> None:
        """Raise whatever is to end a wait; called again and again while one lasts."""
        raise NotImplementedError

    def give_warning(self, text: str, **fields: str) -> None:
        """Report a WARNING whose texts can be shown."""
        raise NotImplementedError

    def warn(
        self,
        message: str,
        *,
        sqlstate: str,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Report a WARNING, in the form that errors have."""
        fields = {"sqlstate": sqlstate, "detail": detail, "hint": hint}
        self.give_warning(
            showable(f"amqp: {message}"),
            **{name: showable(text) for name, text in fields.items() if text is not None},
        )

    def warn_of(self, error: AMQPError) -> None:
        """Report an error as a WARNING instead."""
        self.warn(str(error), sqlstate=error.sqlstate, detail=error.detail, hint=error.hint)


def null(name: str) -> AMQPError:
    """The error for a parameter that must not be NULL."""
    return AMQPError(f"{name} must not be null", sqlstate=NULL_NOT_ALLOWED)


def required(name: str, value: Value | None) -> Value:
    """A parameter that must not be NULL. Raises AMQPError (22004)."""
    if value is None:
        raise null(name)
    return value


def from_server(error: plpy.SPIError) -> AMQPError:
    """An error of PostgreSQL itself, such as a cancel request, without PL/Python's name for it."""
    return AMQPError(str(error), sqlstate=error.sqlstate)


def invalid_message(error: wire.MessageError) -> AMQPError:
    """The error for a message that cannot be encoded."""
    if isinstance(error, wire.TooLongError):
        if error.field == "headers":
            return AMQPError(
                "key in headers is too long",
                sqlstate=TOO_LONG,
                detail=f"The headers hold {error}; the limit is 255 bytes.",
            )
        return AMQPError(
            f"{error.field} is too long",
            sqlstate=TOO_LONG,
            detail=f"It has {error}; AMQP allows 255.",
        )
    if isinstance(error, wire.TooLargeError):
        return AMQPError(
            f"{error.field} are too large",
            sqlstate=LIMIT_EXCEEDED,
            detail=f"They are {error}.",
            hint="Move what is large into the message." if error.field == "headers" else None,
        )
    if isinstance(error, wire.RangeError):
        limits = _LIMITS.get(error.field)
        return AMQPError(
            f"invalid value for {error.field}: {error}",
            sqlstate=INVALID_PARAMETER if limits else NUMBER_OUT_OF_RANGE,
            hint=limits,
        )
    if isinstance(error, wire.UnacceptableError):
        return AMQPError(
            f"invalid value for {error.field}: {error}",
            sqlstate=INVALID_PARAMETER,
            detail="RabbitMQ would refuse the message.",
        )
    return AMQPError(
        f"{error.field} must be a JSON object",
        sqlstate=INVALID_PARAMETER,
        hint="""Give an object, such as '{"key": "value"}'.""",
    )


_LIMITS = {
    "delivery_mode": "Use 1 (transient) or 2 (persistent).",
    "priority": "A priority is between 0 and 255.",
    "expiration": "An expiration is a number of milliseconds, such as '60000', below 2^32.",
    "timestamp": "A timestamp is not before 1970-01-01 00:00:00 UTC and is finite.",
}


def broker_says(error: wire.ReplyError) -> str:
    """The DETAIL that gives the broker's words."""
    return f"The broker says: {error.reply}"


def from_wire(error: wire.WireError, broker_id: int, what: str) -> AMQPError:
    """The error for a question, `what`, that a broker would not answer, or that went wrong."""
    if isinstance(error, wire.MessageError):
        return invalid_message(error)
    if isinstance(error, wire.ReplyError) and error.refuses:
        # With the code of what is in the wrong state since RabbitMQ 4.
        is_unknown_type = "unknown exchange type" in str(error)
        code = _COMMAND_INVALID if is_unknown_type else error.code
        return AMQPError(
            f"the broker refused {what}",
            sqlstate=_REPLY_CODES.get(code, WRONG_STATE),
            detail=broker_says(error),
            hint=_KNOWN_TYPES if is_unknown_type else None,
        )
    return AMQPError(
        f"the connection to broker {broker_id} was lost",
        sqlstate=CONNECTION_FAILURE,
        detail=f"Reason: {error}",
    )


_COMMAND_INVALID = 503
_REPLY_CODES = {
    403: INSUFFICIENT_PRIVILEGE,
    404: UNDEFINED_OBJECT,
    405: IN_USE,
    406: WRONG_STATE,
    # For these the broker closes the connection.
    501: PROTOCOL_VIOLATION,
    502: PROTOCOL_VIOLATION,
    _COMMAND_INVALID: INVALID_PARAMETER,
    504: PROTOCOL_VIOLATION,
    505: PROTOCOL_VIOLATION,
    506: INSUFFICIENT_RESOURCES,
    530: INSUFFICIENT_PRIVILEGE,
    540: FEATURE_NOT_SUPPORTED,
    541: SYSTEM_ERROR,
}
"""SQLSTATEs for the reply codes of AMQP 0-9-1, section 1.2 (constants)."""
_KNOWN_TYPES = (
    "RabbitMQ has direct, fanout, headers and topic; plugins add others: see rabbitmq-plugins list."
)


def connect_sqlstate(error: wire.ConnectError) -> str:
    """SQLSTATE for a host that could not be connected to."""
    if isinstance(error, wire.RejectedError):
        if error.limited:
            return TOO_MANY_CONNECTIONS
        return _REJECTIONS.get(error.code, CONNECTION_REJECTED)
    if isinstance(error, wire.NotAMQPError):
        return PROTOCOL_VIOLATION
    return CANNOT_CONNECT


_INTERNAL_ERROR = 541
_REJECTIONS = {wire.ACCESS_REFUSED: INVALID_PASSWORD, wire.FRAME_ERROR: LIMIT_EXCEEDED}


def connect_hint(error: wire.ConnectError) -> str:
    """What to look at when a host could not be connected to."""
    for fragment, hint in _TLS_HINTS:
        if fragment in str(error):
            return hint
    if isinstance(error, wire.RejectedError):
        if error.limited:
            return (
                "End sessions that no longer publish, or raise the limit with rabbitmqctl"
                " set_user_limits or set_vhost_limits."
            )
        if error.code == wire.FRAME_ERROR:
            return (
                "Use a shorter password or token, or raise initial_frame_max in RabbitMQ's"
                " configuration."
            )
        if error.code == wire.ACCESS_REFUSED:
            return "Check username and password in amqp.broker, and the user in RabbitMQ."
        if error.code == _INTERNAL_ERROR:
            return "RabbitMQ has trouble with this vhost: see its log, and rabbitmqctl list_vhosts."
        return "Check vhost in amqp.broker, and the user's permissions on it in RabbitMQ."
    if isinstance(error, wire.NotAMQPError):
        return "Check host and port in amqp.broker: 5672 is AMQP, 5671 AMQP over TLS."
    if isinstance(error, wire.TLSError):
        return "Check the ssl columns in amqp.broker; the broker may ask for a client certificate."
    return "Check host and port in amqp.broker, and that RabbitMQ runs there."


_TLS_HINTS = (
    ("could not load ssl_c", "The file must be in PEM form and readable by the PostgreSQL server."),
    ("does not speak TLS", "Set ssl to false in amqp.broker, or use the TLS port, usually 5671."),
    ("expects TLS", "Set ssl to true in amqp.broker, or use the plain port, usually 5672."),
    (
        "certificate verify failed",
        "Check host and ssl_cacert in amqp.broker, and the certificate of the broker.",
    ),
)
