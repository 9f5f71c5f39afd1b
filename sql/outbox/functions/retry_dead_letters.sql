-- Each keeps its id, and with it its place, where that is free and will not come again. Both may be otherwise after TRUNCATE
-- ... RESTART IDENTITY. A number is drawn for each: what is below it has been drawn before.
CREATE FUNCTION amqp.retry_dead_letters(broker_id integer DEFAULT NULL, ids bigint[] DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    letter record;
    drawn bigint;
    letters bigint := 0;
BEGIN
    FOR letter IN
        SELECT d.id, d.broker_id, d.exchange, d.routing_key, d.body, d.delivery_mode, d.content_type, d.reply_to,
               d.correlation_id, d.mandatory, d.headers, d.content_encoding, d.priority, d.expiration, d.message_id,
               d."timestamp", d.type, d.user_id, d.app_id, d.ordering_key, d.created_at, d.last_error, d.row_id
        FROM amqp.outbox_dead AS d
        WHERE (retry_dead_letters.broker_id IS NULL OR d.broker_id = retry_dead_letters.broker_id)
          AND (ids IS NULL OR d.id = ANY (ids))
        ORDER BY d.id, d.died_at
        FOR UPDATE
    LOOP
        BEGIN
            INSERT INTO amqp.outbox (
                broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory,
                headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key,
                created_at, last_error)
            VALUES (
                letter.broker_id, letter.exchange, letter.routing_key, letter.body, letter.delivery_mode, letter.content_type,
                letter.reply_to, letter.correlation_id, letter.mandatory, letter.headers, letter.content_encoding,
                letter.priority, letter.expiration, letter.message_id, letter."timestamp", letter.type, letter.user_id,
                letter.app_id, letter.ordering_key, letter.created_at, letter.last_error)
            RETURNING id INTO drawn;
            DELETE FROM amqp.outbox_dead AS d WHERE d.row_id = letter.row_id;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            -- It could never be sent; the others are.
            UPDATE amqp.outbox_dead AS d SET last_error = SQLERRM WHERE d.row_id = letter.row_id;
            CONTINUE;
        END;
        IF letter.id < drawn THEN
            BEGIN
                UPDATE amqp.outbox AS o SET id = letter.id WHERE o.id = drawn;
            EXCEPTION WHEN unique_violation THEN
                NULL;
            END;
        END IF;
        letters := letters + 1;
    END LOOP;
    RETURN letters;
END
$$;

COMMENT ON FUNCTION amqp.retry_dead_letters(integer, bigint[]) IS
'Puts dead letters back into amqp.outbox, as new as at first, and returns their number: those of a broker (NULL: of all), or of these only those with the given ids. A letter keeps its id unless a message has the same by now, or may yet get it. One that could never be sent stays, with the reason as its last_error. Needs SELECT, UPDATE and DELETE on amqp.outbox_dead, and SELECT, INSERT and UPDATE on amqp.outbox.';
