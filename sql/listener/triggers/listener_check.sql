CREATE TRIGGER listener_check BEFORE INSERT OR UPDATE ON amqp.listener
    FOR EACH ROW EXECUTE FUNCTION amqp_inner.listener_check();

COMMENT ON TRIGGER listener_check ON amqp.listener IS
'Refuses rows that cannot work.';
