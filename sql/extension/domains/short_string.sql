CREATE DOMAIN amqp.short_string AS text;

COMMENT ON DOMAIN amqp.short_string IS
'A text of at most 255 bytes, as AMQP has for names and most properties (AMQP 0-9-1, section 4.2.5.3).
Of two functions that take the same call, PostgreSQL prefers the one whose parameters are of type
text (PostgreSQL, section "Functions" of "Type Conversion"). That is amqp.publish() without
properties, which is cheaper; the one with properties has parameters of this type.';
