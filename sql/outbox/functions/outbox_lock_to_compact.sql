-- Vacuum cannot free what a transaction that began earlier might still look at. TRUNCATE can. Rows that are alive must be
-- put back so that every snapshot sees them, also one that is older than the TRUNCATE: only COPY ... FREEZE does that.
CREATE FUNCTION amqp_inner.outbox_lock_to_compact() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
    obstacle text;
BEGIN
    IF pg_table_size('amqp.outbox') < 64 * 1024 * 1024 OR NOT has_table_privilege('amqp.outbox', 'TRUNCATE') THEN
        RETURN false;
    END IF;
    -- What an old snapshot hides must not be thrown away.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN false;
    END IF;
    -- Nor what a policy hides; and what is put back is to be what it was, unseen by anybody's code.
    obstacle := CASE
        WHEN row_security_active('amqp.outbox') THEN 'Row-level security is active for this role.'
        WHEN EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = 'amqp.outbox'::regclass AND NOT t.tgisinternal)
            THEN 'The table has a trigger.'
        WHEN EXISTS (SELECT FROM pg_rewrite AS r WHERE r.ev_class = 'amqp.outbox'::regclass) THEN 'The table has a rule.'
        WHEN EXISTS (SELECT FROM pg_constraint AS c WHERE c.confrelid = 'amqp.outbox'::regclass AND c.contype = 'f')
            THEN 'A foreign key references the table.'
        WHEN EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhparent = 'amqp.outbox'::regclass)
            THEN 'The table has children.'
        WHEN EXISTS (SELECT FROM pg_publication_tables AS t JOIN pg_publication AS p ON p.pubname = t.pubname
                     WHERE t.schemaname = 'amqp' AND t.tablename = 'outbox' AND p.pubinsert AND NOT p.pubtruncate)
            THEN 'A publication has what is inserted into the table, and not its TRUNCATE.'
        END;
    IF obstacle IS NOT NULL THEN
        RAISE EXCEPTION 'the space of table "amqp.outbox" cannot be given back by TRUNCATE'
            USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = obstacle,
                  HINT = 'Messages are delivered all the same; the space is left to VACUUM.';
    END IF;
    -- Before the lock, which keeps publishers waiting. They hold theirs until they commit. What is large is not read.
    IF (SELECT count(*) > 1000 OR sum(o.bytes) > 4 * 1024 * 1024
        FROM (SELECT octet_length(t.body)::bigint + COALESCE(pg_column_size(t.headers), 0) AS bytes
              FROM amqp.outbox AS t LIMIT 1001) AS o) THEN
        RETURN false;
    END IF;
    BEGIN
        LOCK TABLE amqp.outbox IN ACCESS EXCLUSIVE MODE;
        -- What came while waiting for the lock is little, but look.
        IF (SELECT count(*) > 10000 OR sum(o.bytes) > 16 * 1024 * 1024
            FROM (SELECT octet_length(t.body)::bigint + COALESCE(pg_column_size(t.headers), 0) AS bytes
                  FROM amqp.outbox AS t LIMIT 10001) AS o) THEN
            -- Let it go.
            RAISE lock_not_available;
        END IF;
    EXCEPTION WHEN lock_not_available THEN
        RETURN false;
    END;
    RETURN true;
END
$$;

COMMENT ON FUNCTION amqp_inner.outbox_lock_to_compact() IS
'Part of the outbox: whether its table has grown to 64 MB and holds nearly nothing, so that
TRUNCATE gives the space back; if so, this transaction has it locked against everybody.
Waits at most 50 ms for those that have used the outbox. Errors: 55000 if something on the table
is in the way of that: row-level security, a trigger, a rule, a foreign key, a child.';
