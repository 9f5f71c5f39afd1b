CREATE FUNCTION amqp_inner.shown_text(body bytea) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE
AS $$
DECLARE
    -- A character has at most 4 bytes.
    beginning pg_catalog.bytea := pg_catalog.substr(body, 1, 4000);
    length integer := pg_catalog.length(beginning);
BEGIN
    -- The last character may have been cut.
    FOR cut IN 0 .. CASE WHEN pg_catalog.length(body) OPERATOR(pg_catalog.>) length THEN 3 ELSE 0 END LOOP
        BEGIN
            RETURN pg_catalog.left(
                pg_catalog.convert_from(pg_catalog.substr(beginning, 1, length OPERATOR(pg_catalog.-) cut), 'UTF8'), 1000);
        EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
            CONTINUE;
        END;
    END LOOP;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION amqp_inner.shown_text(bytea) IS
'The first 1,000 characters of a body, to be looked at.
NULL if its beginning is no UTF-8, holds a NUL, or a character that the encoding of the database
lacks. No error.';
