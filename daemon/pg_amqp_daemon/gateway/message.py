"""A message that was posted, encoded."""

from __future__ import annotations

from pg_amqp_daemon.gateway.problem import Problem, invalid
from pg_amqp_py.wire.encode import Encoder
from pg_amqp_py.wire.errors import MessageError, TooLongError
from pg_amqp_py.wire.fields import EXCHANGE, FIELDS, MANDATORY, MESSAGE_ID, PLACE, ROUTING_KEY

_USER_ID = FIELDS.index("user_id")
_encoder = Encoder()


class Message:
    """One message, as AMQP has it. Raises Problem if there can be no such message."""

    __slots__ = ("body", "fields", "frames")

    def __init__(self, fields: tuple[object, ...], body: bytes) -> None:
        self.fields = fields
        self.body = body
        self.frames = bytearray()
        """What is written: the frames of Basic.Publish, header and body."""
        self.encode(_encoder)

    def encode(self, encoder: Encoder) -> None:
        """Encode it for connections of the encoder's frame size."""
        self.frames = bytearray()
        try:
            encoder.append(self.frames, self.fields, self.body)
        except TooLongError as error:
            raise invalid(error.field, f"{error}, of which there may be 255") from None
        except MessageError as error:
            raise invalid(error.field, str(error)) from None
        except ValueError:
            # A surrogate, which JSON can escape and UTF-8 cannot hold.
            raise Problem(400, "a text is not Unicode") from None

    @property
    def id(self) -> str:
        """Its message_id."""
        return str(self.fields[MESSAGE_ID])

    @property
    def exchange(self) -> str:
        """Where it goes."""
        return str(self.fields[EXCHANGE])

    @property
    def routing_key(self) -> str:
        """With which routing key."""
        return str(self.fields[ROUTING_KEY])

    @property
    def mandatory(self) -> bool:
        """Whether it comes back if no queue takes it."""
        return bool(self.fields[MANDATORY])

    @property
    def user_id(self) -> object:
        """Who says that he published it; None if nobody does."""
        return self.fields[_USER_ID]

    @property
    def place(self) -> tuple[object, ...]:
        """Exchange and routing key."""
        return self.fields[PLACE]
