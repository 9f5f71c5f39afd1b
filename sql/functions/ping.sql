CREATE FUNCTION amqp.ping(
    broker_id integer,
    OUT host text,
    OUT port integer,
    OUT server_product text,
    OUT server_version text,
    OUT round_trip interval
) RETURNS record
LANGUAGE plpython3u VOLATILE PARALLEL UNSAFE
AS $$return (GD.get("pg_amqp_py") or plpy.execute("SELECT amqp_python.load_python()") and GD["pg_amqp_py"]).ping(broker_id)$$;

COMMENT ON FUNCTION amqp.ping(integer) IS
'Asks a broker for an answer, connecting if needed, also to hosts that just failed. Returns who answered and how long that took; raises the reason if nobody did, as amqp.publish() would.';
