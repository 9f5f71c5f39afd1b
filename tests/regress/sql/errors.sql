-- Bad input, and settings that make no sense.
\set SHOW_CONTEXT never
\set VERBOSITY default
SET amqp.capture = on;
SELECT amqp.publish(1, repeat('x', 256), 'key', 'message');
SELECT amqp.publish(1, 'events', repeat('é', 128), 'message');
SELECT amqp.publish(1, 'events', 'key', 'message', correlation_id => repeat('x', 256));
SELECT amqp.publish(1, 'events', 'key', 'message', delivery_mode => 3);
SELECT amqp.publish(1, 'events', 'key', 'message', priority => 256);
SELECT amqp.publish(1, 'events', 'key', 'message', expiration => 'soon');
SELECT amqp.publish(1, 'events', 'key', 'message', headers => '[1]');
SELECT amqp.publish(1, 'events', 'key', 'message', headers => '{"n": 9223372036854775809}');
SELECT amqp.publish(1, 'events', 'key', 'message', headers => jsonb_build_object('x', repeat('x', 131072)));
SELECT amqp.publish(1, 'events', 'key', 'message', "timestamp" => 'infinity');
SELECT amqp.publish(1, 'events', 'key', 'message', "timestamp" => '1969-12-31 00:00+00');
SELECT amqp.queue_declare(1, '');
SELECT amqp.queue_declare(1, NULL);
SELECT amqp.queue_declare(1, 'q', arguments => '[]');

SET amqp.on_failure = warn;
SELECT amqp.publish(1, repeat('x', 256), 'key', 'message');
SELECT amqp.publish(1, 'events', 'key', 'message', delivery_mode => 3);
SET amqp.on_failure = ignore;
SELECT amqp.publish(1, 'events', 'key', 'message', delivery_mode => 3);
RESET amqp.on_failure;

SET amqp.capture = perhaps;
SELECT amqp.publish(1, 'events', 'key', 'message');
RESET amqp.capture;
SELECT amqp.publish(NULL, 'events', 'key', 'message');
SET amqp.confirm_timeout = '5 parsecs';
SELECT amqp.publish(1, 'events', 'key', 'message');
RESET amqp.confirm_timeout;
SET amqp.connect_timeout = 0;
SELECT amqp.publish(1, 'events', 'key', 'message');
RESET amqp.connect_timeout;
