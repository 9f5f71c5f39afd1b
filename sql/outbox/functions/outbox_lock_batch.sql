-- Batches take turns by the row of amqp.outbox_lease. The advisory lock, shared, keeps relays away, which do not wait.
CREATE FUNCTION amqp_inner.outbox_lock_batch(broker_id integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    tried bigint;
    found_key bigint;
    locked boolean;
BEGIN
    LOOP
        SELECT l.lock_key INTO tried FROM amqp.outbox_lease AS l WHERE l.broker_id = outbox_lock_batch.broker_id;
        IF NOT FOUND THEN
            INSERT INTO amqp.outbox_lease (broker_id, lock_key)
            VALUES (outbox_lock_batch.broker_id, uuid_hash_extended(gen_random_uuid(), 0))
            ON CONFLICT DO NOTHING;
            CONTINUE;
        END IF;
        -- Before the row, which stays locked: a relay is not to find it so.
        locked := pg_try_advisory_xact_lock_shared(tried);
        IF NOT locked AND amqp_inner.outbox_worked(tried) THEN
            RETURN false;
        END IF;
        SELECT l.lock_key INTO found_key FROM amqp.outbox_lease AS l
        WHERE l.broker_id = outbox_lock_batch.broker_id FOR UPDATE;
        CONTINUE WHEN found_key IS DISTINCT FROM tried;
        IF locked THEN
            RETURN true;
        END IF;
        IF amqp_inner.outbox_worked(tried) THEN
            RETURN false;
        END IF;
        -- Held by strangers: by another key, then, from here on.
        tried := uuid_hash_extended(gen_random_uuid(), 0);
        IF pg_try_advisory_xact_lock_shared(tried) THEN
            UPDATE amqp.outbox_lease AS l SET lock_key = tried WHERE l.broker_id = outbox_lock_batch.broker_id;
            RETURN true;
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION amqp_inner.outbox_lock_batch(integer) IS
'Part of amqp.publish_outbox_batch(): waits for others who deliver a batch to the broker, and keeps
them waiting until the transaction ends.
False: a relay works it.';
