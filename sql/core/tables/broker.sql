CREATE TABLE amqp.broker (
    broker_id           serial  NOT NULL,
    host                text    NOT NULL,
    port                integer NOT NULL DEFAULT 5672,
    vhost               text,
    username            text,
    password            text,
    ssl                 boolean NOT NULL DEFAULT false,
    ssl_cacert          text,
    ssl_cert            text,
    ssl_key             text,
    ssl_verify_peer     boolean NOT NULL DEFAULT true,
    ssl_verify_hostname boolean NOT NULL DEFAULT true,
    PRIMARY KEY (broker_id, host, port)
);

COMMENT ON TABLE amqp.broker IS
'RabbitMQ brokers to publish to. Several rows with one broker_id are the hosts of one cluster, '
'tried in the order of host and port. A change counts from the next transaction on. Holds '
'passwords: grant nothing on it to those who publish.';
COMMENT ON COLUMN amqp.broker.broker_id IS
'What amqp.publish() and the other functions call the broker.';
COMMENT ON COLUMN amqp.broker.host IS 'Host name or address, resolved by the database server.';
COMMENT ON COLUMN amqp.broker.port IS 'TCP port; RabbitMQ listens on 5672, with TLS on 5671.';
COMMENT ON COLUMN amqp.broker.vhost IS 'Virtual host; NULL is "/".';
COMMENT ON COLUMN amqp.broker.username IS 'User to log in as (SASL PLAIN); NULL is "guest".';
COMMENT ON COLUMN amqp.broker.password IS 'Password of the user; NULL is "guest".';
COMMENT ON COLUMN amqp.broker.ssl IS 'Whether to use TLS.';
COMMENT ON COLUMN amqp.broker.ssl_cacert IS
'File of trusted CA certificates (PEM), readable by the database server; NULL is the system''s.';
COMMENT ON COLUMN amqp.broker.ssl_cert IS
'File of the client certificate chain (PEM), if the broker asks for one.';
COMMENT ON COLUMN amqp.broker.ssl_key IS
'File of the client certificate''s unencrypted key (PEM); NULL if ssl_cert holds it too.';
COMMENT ON COLUMN amqp.broker.ssl_verify_peer IS
'Whether the broker''s certificate must come from a trusted CA.';
COMMENT ON COLUMN amqp.broker.ssl_verify_hostname IS
'Whether it must also be issued for host. Means nothing without ssl_verify_peer.';

-- Whatever default privileges say.
REVOKE ALL ON TABLE amqp.broker FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.broker_broker_id_seq FROM PUBLIC;
