CREATE FUNCTION amqp.body_json(message amqp.message) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
RETURN convert_from(($1).body, 'UTF8')::jsonb;

COMMENT ON FUNCTION amqp.body_json(amqp.message) IS
'The body of a message as JSON. Errors: 22P02 it is not JSON, and those of amqp.body_text().';
