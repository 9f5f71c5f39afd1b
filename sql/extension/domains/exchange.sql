CREATE DOMAIN amqp.exchange AS text;

COMMENT ON DOMAIN amqp.exchange IS
'A text: the exchange that amqp.publish() takes before a message with properties.
Of two functions that take the same call, PostgreSQL prefers the one whose parameters are of type
text (PostgreSQL, section "Functions" of "Type Conversion"). That is amqp.publish() without
properties, which is cheaper.';
