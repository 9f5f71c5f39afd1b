-- The broker table and amqp.add_broker().
\set SHOW_CONTEXT never
SELECT amqp.add_broker('amqp://user:p%40ss@rabbit.example/orders');
SELECT amqp.add_broker('amqps://one,two:5673,[::1]');
SELECT broker_id, host, port, vhost, username, password, ssl FROM amqp.broker ORDER BY 1, 2;
SELECT amqp.add_broker('http://rabbit.example');
SELECT amqp.add_broker('amqp://user:secret@rabbit.example:99999');
SELECT amqp.add_broker(NULL);
INSERT INTO amqp.broker (host, port) VALUES ('rabbit.example', 0);
INSERT INTO amqp.broker (host) VALUES ('');
INSERT INTO amqp.broker (host) VALUES ('amqp://rabbit.example');
INSERT INTO amqp.broker (host, vhost) VALUES ('rabbit.example', repeat('x', 256));
INSERT INTO amqp.broker (host, ssl, ssl_key) VALUES ('rabbit.example', true, '/key.pem');
INSERT INTO amqp.broker (host, ssl_cacert) VALUES ('rabbit.example', '/ca.pem');
SELECT amqp.publish(99, 'events', 'key', 'message');
SELECT amqp.disconnect(99);
TRUNCATE amqp.broker;
