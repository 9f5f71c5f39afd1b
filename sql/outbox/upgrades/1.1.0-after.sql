-- Whoever could deliver can still: the new table belongs to the same role, and is granted to the same ones.
DO $$
DECLARE
    grantee pg_catalog.text;
BEGIN
    EXECUTE pg_catalog.format('ALTER TABLE amqp.outbox_lease OWNER TO %s', (
        SELECT c.relowner::pg_catalog.regrole FROM pg_catalog.pg_class AS c
        WHERE c.oid OPERATOR(pg_catalog.=) 'amqp.outbox'::pg_catalog.regclass));
    FOR grantee IN
        SELECT a.grantee::pg_catalog.regrole::pg_catalog.text
        FROM pg_catalog.pg_class AS c, pg_catalog.aclexplode(c.relacl) AS a
        WHERE c.oid OPERATOR(pg_catalog.=) 'amqp.outbox_progress'::pg_catalog.regclass
          AND a.privilege_type OPERATOR(pg_catalog.=) 'INSERT' AND a.grantee OPERATOR(pg_catalog.<>) 0
          AND a.grantee OPERATOR(pg_catalog.<>) c.relowner
    LOOP
        EXECUTE pg_catalog.format('GRANT SELECT, INSERT, UPDATE, DELETE ON amqp.outbox_lease TO %s', grantee);
    END LOOP;
END
$$;

DROP FUNCTION amqp.outbox_check(integer, text, text, integer, text, text, text, jsonb, text, integer, text, text, timestamptz, text, text, text);

-- What can never be sent may have been inserted by hand. It would be a dead letter when a relay comes to it.
DO $$
DECLARE
    message amqp.outbox;
    reason pg_catalog.text;
BEGIN
    LOCK TABLE amqp.outbox IN EXCLUSIVE MODE;
    UPDATE amqp.outbox AS o SET next_attempt_at = NULL
    WHERE o.next_attempt_at OPERATOR(pg_catalog.=) '-infinity'::pg_catalog.timestamptz;
    FOR message IN SELECT o.* FROM amqp.outbox AS o ORDER BY o.id USING OPERATOR(pg_catalog.<) LOOP
        BEGIN
            PERFORM amqp_inner.outbox_check(message);
            CONTINUE;
        EXCEPTION WHEN OTHERS THEN
            reason := SQLERRM;
        END;
        DELETE FROM amqp.outbox AS o WHERE o.id OPERATOR(pg_catalog.=) message.id;
        INSERT INTO amqp.outbox_dead (
            id, broker_id, exchange, routing_key, body, delivery_mode, content_type, reply_to, correlation_id, mandatory,
            headers, content_encoding, priority, expiration, message_id, "timestamp", type, user_id, app_id, ordering_key,
            created_at, attempts, next_attempt_at, last_error)
        VALUES (
            message.id, message.broker_id, message.exchange, message.routing_key, message.body, message.delivery_mode,
            message.content_type, message.reply_to, message.correlation_id, message.mandatory, message.headers,
            message.content_encoding, message.priority, message.expiration, message.message_id, message."timestamp",
            message.type, message.user_id, message.app_id, message.ordering_key, message.created_at, message.attempts,
            message.next_attempt_at, reason);
    END LOOP;
END
$$;
