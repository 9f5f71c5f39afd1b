-- With its body parsed, this is the table that was there when it was created, whatever is called amqp.outbox now.
CREATE FUNCTION amqp_inner.outbox_table() RETURNS regclass
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN 'amqp.outbox'::regclass;

COMMENT ON FUNCTION amqp_inner.outbox_table() IS
'The table of the outbox: for functions that look it up by its name.';

-- Whatever default privileges say: whoever may insert a row needs it.
GRANT EXECUTE ON FUNCTION amqp_inner.outbox_table() TO PUBLIC;
