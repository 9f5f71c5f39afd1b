-- The trigger function, without any broker.
\set SHOW_CONTEXT never
SET amqp.capture = on;
SET timezone = 'UTC';
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer, amount numeric(10, 2), "Odd name" text);
CREATE TRIGGER orders_publish AFTER INSERT OR UPDATE OR DELETE ON orders
    FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1', 'events', 'orders.{op}.{new.customer_id}');
CREATE TRIGGER orders_truncate AFTER TRUNCATE ON orders
    FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change('1', 'events');
BEGIN;
INSERT INTO orders VALUES (1, 10, 1.10, NULL), (2, 20, NULL, 'é');
UPDATE orders SET amount = amount + 1, "Odd name" = 'x';
DELETE FROM orders WHERE id = 1;
TRUNCATE orders;
SELECT broker_id, exchange, routing_key, content_type,
       message::jsonb - 'time' - 'transaction_id' AS message,
       message::jsonb->'transaction_id' = to_jsonb(pg_current_xact_id()::text::bigint) AS same_transaction,
       (message::jsonb->>'time')::timestamptz >= now() AS in_time
FROM amqp.pending() \gx
ROLLBACK;

-- Once for a statement, one message a row.
DROP TRIGGER orders_publish ON orders;
CREATE TRIGGER orders_insert AFTER INSERT ON orders REFERENCING NEW TABLE AS "New rows"
    FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change('1', 'events');
CREATE TRIGGER orders_update AFTER UPDATE ON orders REFERENCING NEW TABLE AS n OLD TABLE AS o
    FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change('1', 'events', '{table}.{old.id}');
CREATE TRIGGER orders_delete AFTER DELETE ON orders REFERENCING OLD TABLE AS o
    FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change('1', 'events');
BEGIN;
INSERT INTO orders SELECT n, n, n FROM generate_series(1, 3) AS n;
UPDATE orders SET id = id + 10, amount = 1;
DELETE FROM orders;
SELECT routing_key, message::jsonb - 'time' - 'transaction_id' AS message FROM amqp.pending();
ROLLBACK;

-- Triggers that are defined wrongly.
CREATE TABLE wrong (id integer);
CREATE TRIGGER w AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1');
INSERT INTO wrong VALUES (1);
DROP TRIGGER w ON wrong;
CREATE TRIGGER w BEFORE INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1', 'events');
INSERT INTO wrong VALUES (1);
DROP TRIGGER w ON wrong;
CREATE TRIGGER w AFTER INSERT ON wrong FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change('1', 'events');
INSERT INTO wrong VALUES (1);
DROP TRIGGER w ON wrong;
CREATE TRIGGER w AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1', 'events', 'x.{new.nothing}');
INSERT INTO wrong VALUES (1);
DROP TRIGGER w ON wrong;
CREATE TRIGGER w AFTER INSERT ON wrong FOR EACH ROW EXECUTE FUNCTION amqp.publish_change('1', 'events', 'x.{op');
INSERT INTO wrong VALUES (1);
DROP TABLE wrong, orders;
