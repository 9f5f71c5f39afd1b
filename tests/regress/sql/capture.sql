-- What a transaction would publish, without any broker.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET amqp.capture = on;
-- All ways to call it.
BEGIN;
SELECT amqp.publish(1, 'events', 'key', 'positional');
SELECT amqp.publish(broker_id => 1, exchange => 'events', routing_key => 'key', message => 'named');
SELECT amqp.publish(1, 'events', 'key', 'text'::text, 2, 'text/plain', 'replies', 'c1', true,
                    '{"a": 1, "b": [2.5, null, true]}', 'gzip', 9, '60000', 'm1',
                    '2026-01-02 03:04:05+00', 'order', 'guest', 'app');
SELECT amqp.publish(1, 'events', 'key', '{"b": 1.10, "a": null}'::jsonb);
SELECT amqp.publish(1, 'events', 'key', '{}'::jsonb, content_type => 'application/vnd.order+json');
SELECT amqp.publish(1, 'events', 'key', '\x00ff'::bytea);
SELECT amqp.publish(1, NULL, NULL, NULL);
SELECT amqp.publish(2, 'events'::name, 'key'::varchar(10), 'varchar'::varchar);
SELECT amqp.autonomous_publish(1, 'events', 'key', 'autonomous');
SELECT * FROM amqp.pending() \gx
ROLLBACK;
SELECT count(*) FROM amqp.pending();

-- Savepoints.
BEGIN;
SELECT amqp.publish(1, 'events', 'key', 'first');
SAVEPOINT a;
SELECT amqp.publish(1, 'events', 'key', 'rolled back');
SAVEPOINT b;
SELECT amqp.publish(1, 'events', 'key', 'released, then rolled back');
RELEASE b;
ROLLBACK TO a;
DO $$
BEGIN
    PERFORM amqp.publish(1, 'events', 'key', 'caught');
    RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
    PERFORM amqp.publish(1, 'events', 'key', 'last');
END
$$;
SELECT message, captured FROM amqp.pending();
COMMIT;
SELECT count(*) FROM amqp.pending();

-- Topology calls do nothing; ping has nothing to say.
SELECT amqp.exchange_declare(1, 'events', 'topic', false, true);
SELECT amqp.queue_declare(1, 'q', arguments => '{"x-queue-type": "quorum"}');
SELECT amqp.ping(1);
SELECT count(*) FROM amqp.status();
