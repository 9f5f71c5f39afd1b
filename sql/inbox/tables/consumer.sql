-- target_function is a text, and target_function_id says which function that is: a column of type regprocedure would keep
-- pg_upgrade from upgrading the cluster. regclass does not.
CREATE TABLE amqp.consumer (
    name                text     NOT NULL PRIMARY KEY,
    broker_id           integer  NOT NULL,
    queue               text     NOT NULL,
    enabled             boolean  NOT NULL DEFAULT true,
    target_table        regclass,
    columns             jsonb,
    on_conflict         text     NOT NULL DEFAULT 'error',
    conflict_constraint text,
    target_function     text,
    target_function_id  text,
    reply_errors        boolean  NOT NULL DEFAULT false,
    influxdb            text     REFERENCES amqp.influxdb (name),
    measurement         text,
    tags                text[],
    fields              jsonb,
    "time"              text,
    content_types       text[],
    other_content       text     NOT NULL DEFAULT 'skip',
    deduplicate_by      text,
    deduplicate_for     interval NOT NULL DEFAULT '1 day',
    batch_size          integer  NOT NULL DEFAULT 1000,
    batch_timeout       interval NOT NULL DEFAULT '0',
    prefetch            integer,
    stream_offset       text
);

COMMENT ON TABLE amqp.consumer IS
'What pg-amqp consume takes from RabbitMQ''s queues, and where it puts it.
That is into a table (target_table), to a function (target_function), into InfluxDB (influxdb),
or, without any of these, as it is into amqp.inbox. A row is checked when it is written, and a
change counts within a second. Whoever may write here lets the daemon''s role write to targets and
call functions: grant it to nobody whom that role would not be given to.';
COMMENT ON COLUMN amqp.consumer.name IS
'What the other tables and functions call the consumer.
Under another name it is another one, that has seen nothing yet.';
COMMENT ON COLUMN amqp.consumer.broker_id IS 'The broker, as in amqp.broker.';
COMMENT ON COLUMN amqp.consumer.queue IS
'A queue or stream that exists; at most 255 bytes. Nobody else should consume from it.';
COMMENT ON COLUMN amqp.consumer.enabled IS
'Whether it is worked. What is held when it is disabled is stored before the daemon lets go.';
COMMENT ON COLUMN amqp.consumer.target_table IS
'Table or view to insert a row into for each message. A rename is followed.';
COMMENT ON COLUMN amqp.consumer.columns IS
'A JSON object: for each column of target_table where its value comes from: body, body.PATH,
headers.NAME, a property, exchange, routing_key, redelivered, stream_offset, mqtt_topic,
mqtt_topic[LEVEL] or now.
In a path a dot separates keys, a number is an index, and what holds a dot is put in double
quotes. NULL: the body is a JSON object, and its keys go to the columns of that name. What is
missing takes the column''s default; a JSON null is NULL.';
COMMENT ON COLUMN amqp.consumer.on_conflict IS
'What becomes of a row whose key is in target_table already: error (the message is set aside in
amqp.inbox_dead), ignore, or update (the row takes the values of the message).';
COMMENT ON COLUMN amqp.consumer.conflict_constraint IS
'For on_conflict = update: the primary key or unique constraint that is meant; NULL is the primary
key.';
COMMENT ON COLUMN amqp.consumer.target_function IS
'Function of one amqp.message to call for each message, in the order of the queue.
What it returns is the reply, if the message asks for one (reply_to). It runs as the daemon''s
role. Give its name; the signature is kept.';
COMMENT ON COLUMN amqp.consumer.target_function_id IS
'Which function that is, so that another one that takes its name later is not called.
Set when target_function is.';
COMMENT ON COLUMN amqp.consumer.reply_errors IS
'Whether a message that asks for a reply gets {"error": ..., "sqlstate": ...} if the function
raises an error.';
COMMENT ON COLUMN amqp.consumer.influxdb IS 'Server to write points to: amqp.influxdb.name.';
COMMENT ON COLUMN amqp.consumer.measurement IS
'With influxdb: a template such as {routing_key} or pages_{headers.site}.';
COMMENT ON COLUMN amqp.consumer.tags IS
'With influxdb: keys of the body (paths with dots) that become tags of that name and no fields; or
NAME=TEMPLATE, such as ARRAY[''site={headers.site}''].';
COMMENT ON COLUMN amqp.consumer.fields IS
'With influxdb: a JSON object of keys of the body and what they are: integer, float, string, or
none to leave them out, such as {"count": "integer"}.
All other numbers are written as float.';
COMMENT ON COLUMN amqp.consumer."time" IS
'With influxdb: where the time of a point comes from: a property, headers.NAME or body.PATH, with a
unit behind it, such as body.at:ms (s, ms, us or ns), or as ISO 8601 text.
NULL: the message''s timestamp, or if it has none, the time of arrival.';
COMMENT ON COLUMN amqp.consumer.content_types IS
'With influxdb: content types that are written; NULL is application/json.
TYPE=line is that of bodies which are line protocol already, =json and =line those of messages
that have no content type.';
COMMENT ON COLUMN amqp.consumer.other_content IS
'With influxdb: what becomes of messages of other content types: skip (acknowledged and counted) or
dead (set aside in amqp.inbox_dead).';
COMMENT ON COLUMN amqp.consumer.deduplicate_by IS
'What tells a copy: message_id, headers.NAME, body.PATH, or any other source of a column; none:
nothing does.
NULL: on a queue message_id, on a stream nothing but the offset. A message without it is stored at
least once.';
COMMENT ON COLUMN amqp.consumer.deduplicate_for IS
'How long amqp.inbox_seen remembers what was stored.';
COMMENT ON COLUMN amqp.consumer.batch_size IS
'Most messages in a transaction: 1 to 32767.
The daemon stores what has arrived; behind a large batch it waits 10 ms at most for the next one
to be full.';
COMMENT ON COLUMN amqp.consumer.batch_timeout IS
'How long to wait for a batch to become full: 0 to 1 minute.';
COMMENT ON COLUMN amqp.consumer.prefetch IS
'Messages that the broker sends ahead of their acknowledgement (basic.qos): at least batch_size, at
most 65535; NULL is twice batch_size, which lets one batch arrive while another is stored.';
COMMENT ON COLUMN amqp.consumer.stream_offset IS
'Where to begin in a stream of which nothing was stored yet: first, last, next, an offset or a
timestamp.
NULL is next. From then on amqp.inbox_offset counts: see amqp.rewind().';
