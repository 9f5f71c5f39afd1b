CREATE FUNCTION amqp.rewind(consumer text, stream_offset bigint) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN amqp_inner.inbox_rewind(consumer, stream_offset, NULL);

COMMENT ON FUNCTION amqp.rewind(text, bigint) IS
'Has a consumer of a stream read again from this offset on, and forgets what it has seen.
It counts from the commit on, also against a batch that is being stored. Errors: 42704 no such
consumer, 22023 a negative offset.';

CREATE FUNCTION amqp.rewind(consumer text, start_at timestamptz) RETURNS void
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN amqp_inner.inbox_rewind(consumer, NULL, start_at);

COMMENT ON FUNCTION amqp.rewind(text, timestamptz) IS
'The same, from a time on: RabbitMQ begins with the chunk that holds it, so some messages may be
earlier.';
