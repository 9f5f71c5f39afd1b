CREATE FUNCTION amqp.outbox_settle(
    broker_id integer,
    delivered bigint[],
    delivered_message_ids text[],
    refused bigint[],
    refused_message_ids text[],
    verdicts text[],
    errors text[]
) RETURNS bigint[]
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
    patience text := current_setting('lock_timeout');
    done bigint;
    free bigint[];
    held bigint[];
BEGIN
    -- Somebody may have locked a row for as long as he likes. Whether anybody has costs much to ask, so it is tried; if
    -- that fails, those rows are passed over.
    LOOP
        BEGIN
            IF held IS NULL THEN
                PERFORM set_config('lock_timeout', '50ms', true);
            END IF;
            -- By message_id as well, because ids come again after TRUNCATE ... RESTART IDENTITY. IS TRUE keeps the planner
            -- from making a join of it, which could read the whole table.
            IF keep > '0' THEN
                WITH gone AS (
                    DELETE FROM amqp.outbox AS o
                    WHERE o.id = ANY (delivered)
                      AND ((o.id, o.message_id) IN (
                              SELECT d.id, d.message_id FROM unnest(delivered, delivered_message_ids) AS d (id, message_id)
                          )) IS TRUE
                    RETURNING o.id, o.broker_id, o.exchange, o.routing_key, o.body, o.delivery_mode, o.content_type,
                        o.reply_to, o.correlation_id, o.mandatory, o.headers, o.content_encoding, o.priority, o.expiration,
                        o.message_id, o."timestamp", o.type, o.user_id, o.app_id, o.ordering_key, o.created_at,
                        o.attempts, o.next_attempt_at, o.last_error
                )
                INSERT INTO amqp.outbox_delivered (
                    id, broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id,
                    mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id,
                    app_id, ordering_key, created_at, attempts, next_attempt_at, last_error)
                SELECT g.id, g.broker_id, g.exchange, g.routing_key, g.body, g.delivery_mode, g.content_type, g.reply_to,
                       g.correlation_id, g.mandatory, g.headers, g.content_encoding, g.priority, g.expiration,
                       g.message_id, g."timestamp", g.type, g.user_id, g.app_id, g.ordering_key, g.created_at, g.attempts,
                       g.next_attempt_at, g.last_error
                FROM gone AS g;
            ELSE
                DELETE FROM amqp.outbox AS o
                WHERE o.id = ANY (delivered)
                  AND ((o.id, o.message_id) IN (
                          SELECT d.id, d.message_id FROM unnest(delivered, delivered_message_ids) AS d (id, message_id)
                      )) IS TRUE;
            END IF;
            GET DIAGNOSTICS done = ROW_COUNT;
            -- After 1, 2, 4, ... seconds, up to five minutes; a little earlier or later, so that they do not all come at
            -- once.
            UPDATE amqp.outbox AS o
            SET attempts = o.attempts + 1,
                last_error = r.error,
                next_attempt_at = clock_timestamp()
                    + make_interval(secs => least(300, power(2, least(o.attempts, 20))) * (0.75 + random() / 2))
            FROM unnest(refused, refused_message_ids, errors) AS r (id, message_id, error)
            WHERE o.id = r.id AND o.message_id = r.message_id;
            WITH dead AS (
                DELETE FROM amqp.outbox AS o
                USING unnest(refused, refused_message_ids, verdicts) AS r (id, message_id, verdict)
                WHERE o.id = r.id AND o.message_id = r.message_id
                  AND (r.verdict = 'invalid' OR r.verdict = 'refused' AND o.attempts >= most)
                RETURNING o.id, o.broker_id, o.exchange, o.routing_key, o.body, o.delivery_mode, o.content_type,
                    o.reply_to, o.correlation_id, o.mandatory, o.headers, o.content_encoding, o.priority, o.expiration,
                    o.message_id, o."timestamp", o.type, o.user_id, o.app_id, o.ordering_key, o.created_at, o.attempts,
                    o.next_attempt_at, o.last_error
            )
            INSERT INTO amqp.outbox_dead (
                id, broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id,
                mandatory, headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id,
                ordering_key, created_at, attempts, next_attempt_at, last_error, died_at)
            SELECT d.id, d.broker_id, d.exchange, d.routing_key, d.body, d.delivery_mode, d.content_type, d.reply_to,
                   d.correlation_id, d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d.message_id,
                   d."timestamp", d.type, d.user_id, d.app_id, d.ordering_key, d.created_at, d.attempts,
                   d.next_attempt_at, d.last_error, clock_timestamp()
            FROM dead AS d;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            IF held IS NOT NULL THEN
                -- Not rows, but a table.
                RAISE;
            END IF;
            free := ARRAY(
                SELECT o.id FROM amqp.outbox AS o WHERE o.id = ANY (delivered || refused) FOR UPDATE SKIP LOCKED);
            held := ARRAY(
                SELECT o.id FROM amqp.outbox AS o
                WHERE o.id = ANY (delivered || refused)
                  AND ((o.id, o.message_id) IN (
                          SELECT d.id, d.message_id
                          FROM unnest(delivered || refused, delivered_message_ids || refused_message_ids)
                              AS d (id, message_id)
                      )) IS TRUE
                  AND o.id NOT IN (SELECT f.id FROM unnest(free) AS f (id))
                ORDER BY o.id);
            SELECT COALESCE(array_agg(d.id), '{}'), COALESCE(array_agg(d.message_id), '{}')
            INTO delivered, delivered_message_ids
            FROM unnest(delivered, delivered_message_ids) AS d (id, message_id)
            WHERE d.id IN (SELECT f.id FROM unnest(free) AS f (id));
            SELECT COALESCE(array_agg(r.id), '{}'), COALESCE(array_agg(r.message_id), '{}'),
                   COALESCE(array_agg(r.verdict), '{}'), COALESCE(array_agg(r.error), '{}')
            INTO refused, refused_message_ids, verdicts, errors
            FROM unnest(refused, refused_message_ids, verdicts, errors) AS r (id, message_id, verdict, error)
            WHERE r.id IN (SELECT f.id FROM unnest(free) AS f (id));
        END;
    END LOOP;
    -- What is remembered beside it must not wait for anybody either, nor fail: without it, the rest is as true.
    BEGIN
        PERFORM set_config('lock_timeout', '50ms', true);
        DELETE FROM amqp.outbox_delivered AS d
        WHERE d.row_id IN (
            SELECT e.row_id FROM amqp.outbox_delivered AS e
            WHERE e.delivered_at < clock_timestamp() - keep FOR UPDATE SKIP LOCKED);
        INSERT INTO amqp.outbox_progress AS p (broker_id, second, messages)
        SELECT outbox_settle.broker_id, date_trunc('second', clock_timestamp()), done WHERE done > 0
        ON CONFLICT (broker_id, second) DO UPDATE SET messages = p.messages + EXCLUDED.messages;
        DELETE FROM amqp.outbox_progress AS p
        WHERE p.broker_id = outbox_settle.broker_id AND p.second < clock_timestamp() - interval '1 minute';
        INSERT INTO amqp.outbox_trouble AS t (broker_id, last_error, last_error_at, ended_at)
        SELECT outbox_settle.broker_id, errors[cardinality(errors)], clock_timestamp(), clock_timestamp()
        WHERE cardinality(errors) > 0
        ON CONFLICT (broker_id) DO UPDATE
        SET last_error = EXCLUDED.last_error, last_error_at = EXCLUDED.last_error_at, ended_at = EXCLUDED.ended_at;
        UPDATE amqp.outbox_trouble AS t SET ended_at = clock_timestamp()
        WHERE t.broker_id = outbox_settle.broker_id AND t.ended_at IS NULL AND done > 0 AND held IS NULL;
    EXCEPTION WHEN lock_not_available THEN
        NULL;
    END;
    PERFORM set_config('lock_timeout', patience, true);
    RETURN COALESCE(held, '{}');
END
$$;

COMMENT ON FUNCTION amqp.outbox_settle(integer, bigint[], text[], bigint[], text[], text[], text[]) IS
'Part of the outbox, for whoever holds its lock: deletes what was delivered (or keeps it for '
'amqp.keep_delivered), and sets aside what was refused until its next attempt. A message is named '
'by its id and its message_id. verdicts: refused, which ends after amqp.max_attempts as a dead '
'letter; invalid, which does at once; busy, which never does. Returns the ids of messages whose '
'rows somebody else has locked: nothing was done to these. Ends what amqp.outbox_note() has '
'remembered, unless there are any.';
