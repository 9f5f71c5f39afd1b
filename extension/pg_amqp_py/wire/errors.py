"""What can go wrong on the wire, as one tree of exceptions.

WireError
    MessageError            the message itself cannot be sent; nothing was sent
        TooLongError            longer than its AMQP field
        TooLargeError           properties or arguments that do not fit one frame
        RangeError              a number outside the range of its AMQP type
        UnacceptableError       a value that RabbitMQ would refuse with the channel
    ConnectError            no connection could be opened; the text says why
        UnreachableError        name not found, refused, no answer in time
        NotAMQPError            something answered that does not speak AMQP 0-9-1
        RejectedError           the broker refused the login, the virtual host or the channel
        TLSError                a TLS check failed
    StalledError            the peer made no progress for the time allowed
    RepliesTooLargeError    more has come than is taken
    MalformedError          properties of a message that was received are no AMQP
    ReplyError              the broker gave a reply code
        ConnectionLostError     an open connection broke, was closed or fell silent
        ChannelClosedError      the broker refused one operation (AMQP soft error)

No text ever holds a password: texts come from the operating system, from OpenSSL and from
the broker, none of which repeats one.
"""

from __future__ import annotations

CONNECTION_FORCED = 320
"""Reply code with which a broker that shuts down, or an administrator, closes connections."""
ACCESS_REFUSED = 403
"""Reply code for a wrong login, or a right that is missing."""
NOT_FOUND = 404
"""Reply code for an exchange or a queue that does not exist."""
FRAME_ERROR = 501
"""Reply code for a frame that the broker cannot take."""
_FIRST_HARD_ERROR = 500


class WireError(Exception):
    """Base of everything that `wire` raises on purpose."""


class MessageError(WireError):
    """The message cannot be encoded; `field` names the offending parameter."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class TooLongError(MessageError):
    """A short string of more than 255 bytes (AMQP 0-9-1, section 4.2.5.3)."""


class TooLargeError(MessageError):
    """Properties or arguments that do not fit one frame (sections 4.2.4 and 4.2.6.1)."""


class RangeError(MessageError):
    """A value outside the range of its AMQP type."""


class UnacceptableError(MessageError):
    """A value that is valid AMQP, but for which RabbitMQ closes the channel."""


class ConnectError(WireError):
    """No connection could be opened."""


class UnreachableError(ConnectError):
    """The host name is unknown, the port refuses, or nothing answers in time."""


class NotAMQPError(ConnectError):
    """The peer does not speak AMQP 0-9-1."""


class RejectedError(ConnectError):
    """The broker refused the login, the virtual host or the channel; `code` is its reply code."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code

    @property
    def limited(self) -> bool:
        """Whether a limit on connections or channels is reached: later there may be room.

        RabbitMQ has no code of its own for that; its words are "limit (9) is reached" and "limit of
        (9)".
        """
        return "limit (" in str(self) or "limit of (" in str(self)


class TLSError(ConnectError):
    """The TLS handshake failed; the text names the check."""


class RepliesTooLargeError(WireError):
    """What was answered to the requests of one call is more than is taken."""


class MalformedError(WireError):
    """The properties of a message that was received are no AMQP."""


class ReplyError(WireError):
    """The broker gave a reply text and a reply code (AMQP 0-9-1, constants)."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code

    @property
    def reply(self) -> str:
        """The broker's words, with the code."""
        return f"{self} ({self.code})"

    @property
    def refuses(self) -> bool:
        """Whether the broker complains of what was sent, and would again, not of its own state."""
        return True


class ConnectionLostError(ReplyError):
    """An open connection broke or was closed by the broker.

    `code` is the reply code of Connection.Close, 0 where the connection just broke.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text, code)

    @property
    def refuses(self) -> bool:
        """With one of AMQP's hard errors, it does."""
        return self.code >= _FIRST_HARD_ERROR


class StalledError(WireError):
    """The peer neither took nor sent a byte for the time allowed."""


class ChannelClosedError(ReplyError):
    """The broker closed the channel to refuse an operation.

    `code` is the reply code (AMQP 0-9-1, constants: 403 access-refused, 404 not-found,
    406 precondition-failed, ...), the text is the broker's.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text, code)
