CREATE FUNCTION amqp_inner.broker_changed() RETURNS trigger
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$@PYTHON@.announce_change(TD["relid"])$$;

COMMENT ON FUNCTION amqp_inner.broker_changed() IS
'Trigger function of amqp.broker: makes all sessions read its rows again from their next
transaction on.';
