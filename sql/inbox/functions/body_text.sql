CREATE FUNCTION amqp.body_text(message amqp.message) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN convert_from(($1).body, 'UTF8');

COMMENT ON FUNCTION amqp.body_text(amqp.message) IS
'The body of a message as text.
Errors: 22021 it is not UTF-8 or holds a NUL, 22P05 the database''s encoding lacks a character.';
