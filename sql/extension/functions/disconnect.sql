CREATE FUNCTION amqp.disconnect(
    broker_id integer
) RETURNS void
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.disconnect(broker_id)$$;

COMMENT ON FUNCTION amqp.disconnect(integer) IS
'Closes this session''s connections to a broker, if there are any.
Messages pending in the transaction still go out at commit, and those that are kept because they
were not confirmed are written again, also if their confirms were only awaited. Hosts that just
failed are tried again at the next call.';
