CREATE FUNCTION amqp.outbox_settle(
    broker_id integer,
    delivered bigint[],
    refused bigint[],
    verdicts text[],
    errors text[]
) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
-- Runs through all its statements even if there is nothing to report: so an empty report, which whoever holds the lock
-- makes first, shows whether a real one would fail.
#variable_conflict use_column
DECLARE
    keep interval := COALESCE(NULLIF(current_setting('amqp.keep_delivered', true), ''), '0');
    most integer := COALESCE(NULLIF(current_setting('amqp.max_attempts', true), ''), '10');
    done bigint;
BEGIN
    IF keep > '0' THEN
        WITH gone AS (DELETE FROM amqp.outbox AS o WHERE o.id = ANY (delivered) RETURNING o.*)
        INSERT INTO amqp.outbox_delivered SELECT g.* FROM gone AS g;
    ELSE
        DELETE FROM amqp.outbox AS o WHERE o.id = ANY (delivered);
    END IF;
    GET DIAGNOSTICS done = ROW_COUNT;
    DELETE FROM amqp.outbox_delivered AS d WHERE d.delivered_at < clock_timestamp() - keep;
    INSERT INTO amqp.outbox_progress AS p (broker_id, second, messages)
    SELECT outbox_settle.broker_id, date_trunc('second', clock_timestamp()), done WHERE done > 0
    ON CONFLICT (broker_id, second) DO UPDATE SET messages = p.messages + EXCLUDED.messages;
    DELETE FROM amqp.outbox_progress AS p
    WHERE p.broker_id = outbox_settle.broker_id AND p.second < clock_timestamp() - interval '1 minute';
    -- After 1, 2, 4, ... seconds, up to five minutes; a little earlier or later, so that they do not all come at once.
    UPDATE amqp.outbox AS o
    SET attempts = o.attempts + 1,
        last_error = r.error,
        next_attempt_at = clock_timestamp()
            + make_interval(secs => least(300, power(2, least(o.attempts, 20))) * (0.75 + random() / 2))
    FROM unnest(refused, verdicts, errors) AS r (id, verdict, error)
    WHERE o.id = r.id;
    WITH dead AS (
        DELETE FROM amqp.outbox AS o
        USING unnest(refused, verdicts) AS r (id, verdict)
        WHERE o.id = r.id AND (r.verdict = 'invalid' OR r.verdict = 'refused' AND o.attempts >= most)
        RETURNING o.*
    )
    INSERT INTO amqp.outbox_dead SELECT d.*, clock_timestamp() FROM dead AS d;
    IF cardinality(refused) > 0 THEN
        PERFORM amqp.outbox_note(outbox_settle.broker_id, errors[cardinality(errors)]);
    END IF;
END
$$;

COMMENT ON FUNCTION amqp.outbox_settle(integer, bigint[], bigint[], text[], text[]) IS
'Part of the outbox, for whoever holds its lock: deletes what was delivered (or keeps it for amqp.keep_delivered), and sets aside what was refused until its next attempt. verdicts: refused, which ends after amqp.max_attempts as a dead letter; invalid, which does at once; busy, which never does.';
