-- USAGE on schema amqp is the right to publish, and no more.
\set SHOW_CONTEXT never
CREATE ROLE regress_amqp_publisher;
SET amqp.capture = on;
SET ROLE regress_amqp_publisher;
SELECT amqp.publish(1, 'events', 'key', 'message');
RESET ROLE;
GRANT USAGE ON SCHEMA amqp TO regress_amqp_publisher;
SET ROLE regress_amqp_publisher;
SELECT amqp.publish(1, 'events', 'key', 'message');
SELECT amqp.exchange_declare(1, 'events', 'topic', false, true);
SELECT * FROM amqp.broker;
SELECT amqp.add_broker('amqp://rabbit.example');
SELECT amqp.queue_declare(1, 'q');
RESET ROLE;
GRANT EXECUTE ON FUNCTION amqp.add_broker(text) TO regress_amqp_publisher;
SET ROLE regress_amqp_publisher;
SELECT amqp.add_broker('amqp://rabbit.example') > 0 AS added;
SELECT * FROM amqp.broker;
RESET ROLE;
REVOKE ALL ON SCHEMA amqp FROM regress_amqp_publisher;
REVOKE ALL ON FUNCTION amqp.add_broker(text) FROM regress_amqp_publisher;
DROP ROLE regress_amqp_publisher;
DROP EXTENSION pg_amqp_py;
