-- Vacuum cannot free what a transaction that began earlier might still look at. TRUNCATE can: all that is alive is put
-- back behind it, in one transaction.
CREATE FUNCTION amqp.outbox_compact() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
    alive amqp.outbox[];
BEGIN
    IF pg_table_size('amqp.outbox') < 64 * 1024 * 1024 OR NOT has_table_privilege('amqp.outbox', 'TRUNCATE') THEN
        RETURN false;
    END IF;
    -- What an old snapshot or a policy hides must not be thrown away.
    IF current_setting('transaction_isolation') <> 'read committed' OR row_security_active('amqp.outbox') THEN
        RETURN false;
    END IF;
    -- Before the lock, which keeps publishers waiting. They hold theirs until they commit.
    IF (SELECT count(*) > 1000 OR sum(o.bytes) > 4 * 1024 * 1024
        FROM (SELECT pg_column_size(t.*) + octet_length(t.body)::bigint AS bytes FROM amqp.outbox AS t LIMIT 1001) AS o) THEN
        RETURN false;
    END IF;
    BEGIN
        LOCK TABLE amqp.outbox IN ACCESS EXCLUSIVE MODE;
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
    -- What came while waiting for the lock is little, but look.
    IF (SELECT count(*) > 10000 OR sum(o.bytes) > 16 * 1024 * 1024
        FROM (SELECT pg_column_size(t.*) + octet_length(t.body)::bigint AS bytes FROM amqp.outbox AS t LIMIT 10001) AS o) THEN
        RETURN false;
    END IF;
    alive := ARRAY(SELECT o FROM amqp.outbox AS o);
    TRUNCATE amqp.outbox;
    INSERT INTO amqp.outbox SELECT a.* FROM unnest(alive) AS a;
    RETURN true;
END
$$;

COMMENT ON FUNCTION amqp.outbox_compact() IS
'Part of the outbox: if its table has grown to 64 MB and holds nearly nothing, gives the space back, whatever transactions are open. Waits at most 50 ms for those that have used the outbox; true: it is done.';
