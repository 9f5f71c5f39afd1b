-- What administrators put in is theirs, and messages that wait must not get lost: pg_dump saves both.
SELECT pg_catalog.pg_extension_config_dump('amqp.broker', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.broker_broker_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.outbox', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.outbox_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.outbox_dead', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.outbox_delivered', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.influxdb', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.consumer', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.inbox', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.inbox_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.inbox_seen', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.inbox_offset', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.inbox_dead', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.inbox_dead_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.listener', '');
SELECT pg_catalog.pg_extension_config_dump('amqp.listener_listener_id_seq', '');
