-- The target takes nothing without an error whatever sequences it has: each message would be found at fault.
CREATE FUNCTION amqp_inner.consumer_may_count(target regclass, filled name[]) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    denied name;
BEGIN
    SELECT s.relname INTO denied
    FROM pg_attribute AS a
    LEFT JOIN pg_attrdef AS v ON v.adrelid = a.attrelid AND v.adnum = a.attnum
    JOIN pg_depend AS d
        ON d.classid = 'pg_attrdef'::regclass AND d.objid = v.oid AND d.refclassid = 'pg_class'::regclass
        -- What an identity gives by itself takes no privilege, but where a message may have the value, it is asked for by name.
        OR a.attidentity = 'd' AND a.attname = ANY (filled) AND d.deptype = 'i' AND d.classid = 'pg_class'::regclass
           AND d.refclassid = 'pg_class'::regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum
    JOIN pg_class AS s ON s.oid = CASE WHEN a.attidentity = 'd' THEN d.objid ELSE d.refobjid END
    WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
      -- Of anything else the privilege must not be asked for.
      AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE, UPDATE') END
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'permission denied for sequence %', denied USING ERRCODE = 'insufficient_privilege';
    END IF;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_may_count(regclass, name[]) IS
'Part of the inbox: makes sure that the role may use the sequences of a target table.
Errors: 42501.';
