CREATE TABLE amqp.influxdb (
    name             text NOT NULL PRIMARY KEY,
    url              text NOT NULL,
    api              text NOT NULL DEFAULT 'v1',
    database         text,
    retention_policy text,
    username         text,
    password         text,
    org              text,
    bucket           text,
    token            text
);

COMMENT ON TABLE amqp.influxdb IS
'InfluxDB servers for consumers whose target is one: see amqp.consumer.influxdb.
A change counts within a second. Holds passwords and tokens: grant SELECT to the daemon''s role
alone.';
COMMENT ON COLUMN amqp.influxdb.name IS 'What amqp.consumer.influxdb calls it.';
COMMENT ON COLUMN amqp.influxdb.url IS
'http:// or https://, host and port, such as http://influx.example:8086; without a user or a
password.';
COMMENT ON COLUMN amqp.influxdb.api IS
'v1: /write, of InfluxDB 1; v2: /api/v2/write, of InfluxDB 2 and 3.';
COMMENT ON COLUMN amqp.influxdb.database IS 'Of v1: the database, which must exist.';
COMMENT ON COLUMN amqp.influxdb.retention_policy IS
'Of v1: the retention policy; NULL is the default one of the database.';
COMMENT ON COLUMN amqp.influxdb.username IS 'Of v1: user to log in as; NULL: without a login.';
COMMENT ON COLUMN amqp.influxdb.password IS 'Of v1: password of the user.';
COMMENT ON COLUMN amqp.influxdb.org IS 'Of v2: the organization.';
COMMENT ON COLUMN amqp.influxdb.bucket IS 'Of v2: the bucket, which must exist.';
COMMENT ON COLUMN amqp.influxdb.token IS 'Of v2: the token to log in with.';
