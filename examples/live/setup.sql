-- What the page needs in the database: docs/how-to/live-page.md says why.
SELECT amqp.add_broker('amqp://guest:guest@localhost/');

-- Changes go out here, and questions come in there.
SELECT amqp.exchange_declare(1, 'live.changes', 'topic');
SELECT amqp.exchange_declare(1, 'live.questions', 'direct');
SELECT amqp.queue_declare(1, 'live.snapshot', arguments => '{"x-message-ttl": 15000, "x-max-length": 1000}');
SELECT amqp.queue_declare(1, 'live.customer', arguments => '{"x-message-ttl": 15000, "x-max-length": 1000}');
SELECT amqp.queue_bind(1, 'live.snapshot', 'live.questions', 'snapshot');
SELECT amqp.queue_bind(1, 'live.customer', 'live.questions', 'customer');

CREATE TABLE orders (
    id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    item     text NOT NULL,
    amount   numeric(10, 2) NOT NULL,
    status   text NOT NULL DEFAULT 'placed',
    version  bigint NOT NULL DEFAULT 0
);

-- Each writing of a row has a higher version than the one before.
CREATE SEQUENCE order_version;
CREATE FUNCTION next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := nextval('public.order_version');
    RETURN NEW;
END $$;
CREATE TRIGGER orders_version BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION next_version();

CREATE TRIGGER orders_live AFTER INSERT OR UPDATE OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1', 'live.changes', 'orders.{op}');
CREATE TRIGGER orders_live_truncate AFTER TRUNCATE ON orders
    FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change('1', 'live.changes', 'orders.{op}');
-- While RabbitMQ is away, changes wait in the outbox and nobody is kept from working.
ALTER DATABASE shop SET amqp.on_failure = 'outbox';

-- The table, and which transactions it has in it. One statement, so that both are of one moment.
CREATE FUNCTION live_snapshot(m amqp.message) RETURNS jsonb LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT jsonb_build_object('snapshot', pg_current_snapshot()::text,
                              'rows', COALESCE(jsonb_agg(to_jsonb(o) ORDER BY o.id), '[]'))
    FROM orders AS o
    HAVING m.reply_to LIKE 'amq.gen-%';
END;
-- Bytes are compared, so that no question can be a bad one.
CREATE FUNCTION live_customer(m amqp.message) RETURNS jsonb LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT jsonb_build_object('orders', count(*), 'total', COALESCE(sum(o.amount), 0))
    FROM orders AS o
    WHERE convert_to(o.customer, 'UTF8') = m.body
    HAVING m.reply_to LIKE 'amq.gen-%';
END;
INSERT INTO amqp.consumer (name, broker_id, queue, target_function, deduplicate_by)
VALUES ('live_snapshot', 1, 'live.snapshot', 'live_snapshot', 'none'),
       ('live_customer', 1, 'live.customer', 'live_customer', 'none');
