-- Many looks in one statement, because a statement costs both sides more than the look. Each look is rolled back, so that
-- whoever wants the table for himself (outbox_lock_to_compact(), ALTER TABLE) need not wait for the end of all.
--
-- Read with the settings of amqp_inner.outbox_due(), and written as that is so that one index alone has each order. Subqueries
-- that give a value are never hashed, which would read the whole index. What vacuum may not remove yet can make a look from
-- the beginning costly.
CREATE FUNCTION amqp_inner.outbox_await(broker_ids integer[], after_ids bigint[], seconds double precision) RETURNS integer[]
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    until timestamptz := clock_timestamp() + make_interval(secs => seconds);
    next_whole timestamptz := '-infinity';
    moment timestamptz;
    whole boolean;
    found_ids integer[];
BEGIN
    LOOP
        moment := clock_timestamp();
        whole := moment >= next_whole;
        BEGIN
            found_ids := ARRAY(
                SELECT b.id FROM unnest(broker_ids, after_ids) AS b (id, after)
                WHERE COALESCE(
                    (SELECT true FROM amqp.outbox AS r
                     WHERE (r.broker_id, r.id) > (b.id, CASE WHEN whole THEN -9223372036854775808 ELSE b.after END)
                       AND r.broker_id <= b.id AND r.next_attempt_at IS NULL AND r.retain IS NOT TRUE
                     ORDER BY r.broker_id, r.id LIMIT 1),
                    (SELECT true FROM amqp.outbox AS w
                     WHERE whole AND w.broker_id = b.id AND w.next_attempt_at <= moment AND w.retain IS NOT TRUE
                     ORDER BY w.broker_id, w.next_attempt_at, w.id LIMIT 1),
                    (SELECT true FROM amqp.outbox AS m
                     WHERE whole AND (m.broker_id, m.id) > (b.id, -9223372036854775808) AND m.broker_id <= b.id AND m.retain
                     ORDER BY m.broker_id, m.id LIMIT 1)));
            RAISE EXCEPTION 'the look is over';
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
        IF cardinality(found_ids) > 0 OR moment >= until THEN
            RETURN found_ids;
        END IF;
        IF whole THEN
            next_whole := clock_timestamp() + 20 * (clock_timestamp() - moment);
        END IF;
        PERFORM pg_sleep(0.008);
    END LOOP;
END
$$;

COMMENT ON FUNCTION amqp_inner.outbox_await(integer[], bigint[], double precision) IS
'Part of the outbox: waits until there is anything ready, due or retained for one of these brokers,
for so many seconds at most.
Looks every 8 ms: behind the id that goes with each broker, and over the whole outbox as often as
that takes less than a twentieth of the time. Returns the brokers for which there is something; it
may have to wait for something else yet. Holds no lock meanwhile.';
