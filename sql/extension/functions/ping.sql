CREATE FUNCTION amqp.ping(
    broker_id integer,
    OUT host text,
    OUT port integer,
    OUT server_product text,
    OUT server_version text,
    OUT round_trip interval
) RETURNS record
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return @PYTHON@.ping(broker_id)$$;

COMMENT ON FUNCTION amqp.ping(integer) IS
'Asks a broker for an answer, connecting if needed, also to hosts that just failed.
Writes no message, not even one that is kept. Returns who answered and how long that took; raises
the reason if nobody did, as amqp.publish() would.';
