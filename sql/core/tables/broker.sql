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
    mqtt_port           integer,
    mqtt_ssl            boolean,
    PRIMARY KEY (broker_id, host, port)
);

-- Whatever default privileges say.
REVOKE ALL ON TABLE amqp.broker FROM PUBLIC;
REVOKE ALL ON SEQUENCE amqp.broker_broker_id_seq FROM PUBLIC;
