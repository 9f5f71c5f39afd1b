-- What wire/table.py and wire/properties.py refuse, and what it takes to look: a level at a time, so that the work grows
-- with the size, and with no more levels than any Python can follow.
CREATE FUNCTION amqp_inner.outbox_check_headers(headers jsonb, properties_bytes integer) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    most_levels CONSTANT integer := 200;
    frame_max CONSTANT integer := 131072;
    level jsonb[] := ARRAY[headers];
    levels integer := 0;
    -- Its own length, and that of each table and array below.
    bytes bigint := 4 + properties_bytes;
    more bigint;
    long_key bigint;
    number text;
BEGIN
    IF jsonb_typeof(headers) <> 'object' THEN
        RAISE EXCEPTION 'headers must be a JSON object'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as ''{"key": "value"}''.';
    END IF;
    -- The second is about numbers: see amqp_inner.outbox_due(). What || gives is never compressed.
    IF octet_length(headers::text) > 131000 OR octet_length(headers::text) > 6 * pg_column_size(headers || '{}') + 400 THEN
        RAISE EXCEPTION 'headers are too large'
            USING ERRCODE = 'program_limit_exceeded',
                  DETAIL = 'As text, 131,000 bytes are allowed, and numbers without thousands of digits.',
                  HINT = 'Move what is large into the message.';
    END IF;
    IF EXISTS (
        SELECT FROM jsonb_each(headers) AS h
        WHERE h.key IN ('CC', 'BCC')
          AND (jsonb_typeof(h.value) <> 'array'
               OR jsonb_path_exists(h.value, 'strict $[*] ? (@.type() != "string")'))) THEN
        RAISE EXCEPTION 'invalid value for headers: CC and BCC must be arrays of strings'
            USING ERRCODE = 'invalid_parameter_value', DETAIL = 'RabbitMQ would refuse the message.';
    END IF;
    WHILE level IS NOT NULL LOOP
        levels := levels + 1;
        IF levels > most_levels THEN
            RAISE EXCEPTION 'headers are too large'
                USING ERRCODE = 'program_limit_exceeded', DETAIL = 'They are nested too deeply: 200 levels are allowed.',
                      HINT = 'Move what is large into the message.';
        END IF;
        -- A key and its length, the type, and by type: a length and a text, eight bytes or four, one, or nothing.
        SELECT sum(COALESCE(1 + v.key_bytes, 0) + 1
                   + CASE v.type WHEN 'string' THEN 4 + octet_length(convert_to(v.text, 'UTF8'))
                                 WHEN 'number' THEN CASE WHEN v.number BETWEEN -2147483648 AND 2147483647
                                                              AND strpos(v.text, '.') = 0 THEN 4 ELSE 8 END
                                 WHEN 'boolean' THEN 1
                                 WHEN 'null' THEN 0
                                 ELSE 4 END),
               max(v.key_bytes),
               max(CASE WHEN length(v.text) > 40 THEN left(v.text, 40) || '...' ELSE v.text END) FILTER (
                   WHERE v.number IS NOT NULL
                     AND CASE WHEN strpos(v.text, '.') > 0 THEN abs(v.number) > 1.7976931348623157e308
                              WHEN v.number BETWEEN -9223372036854775808 AND 9223372036854775807 THEN false
                              WHEN abs(v.number) > 1.7976931348623158e308 THEN true
                              -- A double has 53 bits: what its exponent says must divide the integer.
                              ELSE mod(abs(v.number), 2::numeric ^ (
                                  (get_byte(float8send(abs(v.number)::float8), 0) << 4)
                                  + (get_byte(float8send(abs(v.number)::float8), 1) >> 4) - 1075)) <> 0 END),
               array_agg(v.value) FILTER (WHERE v.type IN ('object', 'array'))
        INTO more, long_key, number, level
        FROM (
            SELECT octet_length(convert_to(c.key, 'UTF8')) AS key_bytes, c.value, jsonb_typeof(c.value) AS type,
                   CASE WHEN jsonb_typeof(c.value) IN ('string', 'number') THEN c.value #>> '{}' END AS text,
                   CASE WHEN jsonb_typeof(c.value) = 'number' THEN c.value::numeric END AS number
            FROM unnest(level) AS p (value)
            CROSS JOIN LATERAL (
                SELECT e.key, e.value
                FROM jsonb_each(CASE WHEN jsonb_typeof(p.value) = 'object' THEN p.value END) AS e
                UNION ALL
                SELECT NULL, e.value
                FROM jsonb_array_elements(CASE WHEN jsonb_typeof(p.value) = 'array' THEN p.value END) AS e
            ) AS c
        ) AS v;
        IF long_key > 255 THEN
            RAISE EXCEPTION 'key in headers is too long'
                USING ERRCODE = 'string_data_right_truncation',
                      DETAIL = format('The headers hold a key of %s bytes; the limit is 255 bytes.', long_key);
        ELSIF number IS NOT NULL THEN
            RAISE EXCEPTION 'invalid value for headers: % is neither an integer of 64 bits nor exactly a double', number
                USING ERRCODE = 'numeric_value_out_of_range';
        END IF;
        bytes := bytes + COALESCE(more, 0);
        IF bytes > frame_max THEN
            RAISE EXCEPTION 'headers are too large'
                USING ERRCODE = 'program_limit_exceeded',
                      DETAIL = format('With the other properties they must fit into a frame of %s bytes.', frame_max),
                      HINT = 'Move what is large into the message.';
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION amqp_inner.outbox_check_headers(jsonb, integer) IS
'Part of amqp_inner.outbox_check(): raises what is wrong with headers beside properties of so many
bytes.';
