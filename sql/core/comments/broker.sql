-- In a file of their own, which upgrades run, too.
COMMENT ON TABLE amqp.broker IS
'RabbitMQ brokers to publish to and to consume from. Several rows with one broker_id are the hosts '
'of one cluster: a session tries them in the order of host and port, the daemon in any order. A '
'change counts from the next transaction on, and for the daemon within a second. Holds passwords: '
'grant nothing on it to those who publish.';
COMMENT ON COLUMN amqp.broker.broker_id IS
'What amqp.publish(), the other functions and amqp.consumer call the broker.';
COMMENT ON COLUMN amqp.broker.host IS 'Host name or address, resolved by the database server, and by the daemon where that runs.';
COMMENT ON COLUMN amqp.broker.port IS 'TCP port; RabbitMQ listens on 5672, with TLS on 5671.';
COMMENT ON COLUMN amqp.broker.vhost IS 'Virtual host; NULL is "/".';
COMMENT ON COLUMN amqp.broker.username IS 'User to log in as (SASL PLAIN); NULL is "guest".';
COMMENT ON COLUMN amqp.broker.password IS 'Password of the user; NULL is "guest".';
COMMENT ON COLUMN amqp.broker.ssl IS 'Whether to use TLS.';
COMMENT ON COLUMN amqp.broker.ssl_cacert IS
'File of trusted CA certificates (PEM), readable by the database server, and by the daemon where '
'that runs; NULL is the system''s.';
COMMENT ON COLUMN amqp.broker.ssl_cert IS
'File of the client certificate chain (PEM), if the broker asks for one.';
COMMENT ON COLUMN amqp.broker.ssl_key IS
'File of the client certificate''s unencrypted key (PEM); NULL if ssl_cert holds it too.';
COMMENT ON COLUMN amqp.broker.ssl_verify_peer IS
'Whether the broker''s certificate must come from a trusted CA.';
COMMENT ON COLUMN amqp.broker.ssl_verify_hostname IS
'Whether it must also be issued for host. Means nothing without ssl_verify_peer.';
COMMENT ON COLUMN amqp.broker.mqtt_port IS
'TCP port of RabbitMQ''s MQTT plugin at host, for retained messages; NULL is 1883, with TLS 8883.';
COMMENT ON COLUMN amqp.broker.mqtt_ssl IS
'Whether to use TLS there, with the same ssl_ files and checks; NULL is as ssl says.';
