CREATE TRIGGER influxdb_check BEFORE INSERT OR UPDATE ON amqp.influxdb
    FOR EACH ROW EXECUTE FUNCTION amqp_inner.influxdb_check();
ALTER TABLE amqp.influxdb ENABLE ALWAYS TRIGGER influxdb_check;

COMMENT ON TRIGGER influxdb_check ON amqp.influxdb IS
'Refuses rows that cannot work.';
