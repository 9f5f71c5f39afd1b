CREATE FUNCTION amqp.discard_dead_letters(broker_id integer DEFAULT NULL, ids bigint[] DEFAULT NULL) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH gone AS (
        DELETE FROM amqp.outbox_dead AS d
        WHERE ($1 IS NULL OR d.broker_id = $1) AND ($2 IS NULL OR d.id = ANY ($2))
        RETURNING 1
    )
    SELECT count(*) FROM gone;
END;

COMMENT ON FUNCTION amqp.discard_dead_letters(integer, bigint[]) IS
'Deletes dead letters for good, and returns their number.
They are those of a broker (NULL: of all), or of these only those with the given ids.';
