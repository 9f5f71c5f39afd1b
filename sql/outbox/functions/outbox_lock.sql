-- One relay works a broker, and while it does, no batch is delivered beside it. The key in amqp.outbox_lease is changed
-- when somebody holds the lock who may not: the row is locked for it, and whoever has got the lock looks under a lock of
-- the row whether it was the right key.
CREATE FUNCTION amqp_inner.outbox_lock(broker_id integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    tried bigint;
    found_key bigint;
BEGIN
    SELECT l.lock_key INTO tried FROM amqp.outbox_lease AS l WHERE l.broker_id = outbox_lock.broker_id;
    IF NOT FOUND THEN
        BEGIN
            INSERT INTO amqp.outbox_lease (broker_id, lock_key)
            VALUES (outbox_lock.broker_id, uuid_hash_extended(gen_random_uuid(), 0))
            ON CONFLICT DO NOTHING;
        EXCEPTION WHEN lock_not_available THEN
            -- A batch, the first ever for this broker.
            RETURN false;
        END;
        SELECT l.lock_key INTO STRICT tried FROM amqp.outbox_lease AS l WHERE l.broker_id = outbox_lock.broker_id;
    END IF;
    IF NOT pg_try_advisory_lock(tried) THEN
        IF amqp_inner.outbox_worked(tried) THEN
            RETURN false;
        END IF;
        -- Held by strangers. Who has the row is about to work the broker.
        SELECT l.lock_key INTO found_key FROM amqp.outbox_lease AS l
        WHERE l.broker_id = outbox_lock.broker_id FOR UPDATE SKIP LOCKED;
        IF found_key IS DISTINCT FROM tried OR amqp_inner.outbox_worked(tried) THEN
            RETURN false;
        END IF;
        tried := uuid_hash_extended(gen_random_uuid(), 0);
        IF NOT pg_try_advisory_lock(tried) THEN
            RETURN false;
        END IF;
        UPDATE amqp.outbox_lease AS l SET lock_key = tried WHERE l.broker_id = outbox_lock.broker_id;
        RETURN true;
    END IF;
    SELECT l.lock_key INTO found_key FROM amqp.outbox_lease AS l
    WHERE l.broker_id = outbox_lock.broker_id FOR UPDATE SKIP LOCKED;
    IF found_key IS DISTINCT FROM tried THEN
        PERFORM pg_advisory_unlock(tried);
        RETURN false;
    END IF;
    RETURN true;
END
$$;

COMMENT ON FUNCTION amqp_inner.outbox_lock(integer) IS
'Part of the outbox: makes this session the one that works a broker''s outbox, until it ends.
False: another one does, or is about to; roles that may not work it do not count.';
