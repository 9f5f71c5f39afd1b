-- Those of the LISTEN exchange, as its code and as its documentation spell them. Without SET, so that PostgreSQL inlines it.
CREATE FUNCTION amqp_inner.listener_headers(listener amqp.listener, server text) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN jsonb_build_object(
    'pgsql-channel', (listener).channel, 'pgsql-server', server,
    'postgres-channel', (listener).channel, 'postgres-dbname', current_database(), 'postgres-server', server,
    'source-exchange', (listener).exchange) || COALESCE((listener).headers, '{}');

COMMENT ON FUNCTION amqp_inner.listener_headers(amqp.listener, text) IS
'Part of the listener: the headers of a row''s messages. server is host:port.';
