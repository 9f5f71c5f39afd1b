CREATE FUNCTION amqp_inner.consumer_check() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    wrong pg_catalog.text;
    restoring CONSTANT pg_catalog.bool := NOT pg_catalog.current_setting('check_function_bodies')::pg_catalog.bool;
    meant pg_catalog.regprocedure;
    detail pg_catalog.text;
    hint pg_catalog.text;
BEGIN
    -- The whole context of an error, which is statements of ours, would hide what is wrong.
    BEGIN
        wrong := amqp_inner.consumer_fault(NEW);
        IF wrong IS NOT NULL THEN
            RAISE EXCEPTION 'invalid row for table "amqp.consumer": %', wrong USING ERRCODE = 'check_violation';
        END IF;
        -- What is disabled because its target is gone must not need one for that.
        IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND NOT NEW.enabled
           AND (pg_catalog.to_jsonb(NEW) OPERATOR(pg_catalog.-) 'enabled'::pg_catalog.text) OPERATOR(pg_catalog.=)
               (pg_catalog.to_jsonb(OLD) OPERATOR(pg_catalog.-) 'enabled'::pg_catalog.text) THEN
            RETURN NEW;
        END IF;
        IF NEW.target_function IS NULL THEN
            NEW.target_function_id := NULL;
        ELSIF restoring THEN
            NEW.target_function_id := NULL;
            meant := pg_catalog.to_regprocedure(NEW.target_function);
        ELSE
            -- Of the row as it was, the function stays the same, whatever its name is by now.
            SELECT f.function, f.id INTO meant, NEW.target_function_id
            FROM amqp_inner.consumer_function(
                NEW.target_function,
                CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'UPDATE' AND NEW.target_function OPERATOR(pg_catalog.=) OLD.target_function
                     THEN amqp_inner.consumer_known_function(OLD.target_function_id) END) AS f;
            NEW.target_function := amqp_inner.consumer_signature(meant);
        END IF;
        -- pg_restore: the keys of targets come behind the rows of tables. The daemon looks anyway.
        IF NOT restoring AND NEW.influxdb IS NULL THEN
            PERFORM amqp_inner.consumer_try(NEW);
        END IF;
    EXCEPTION
        WHEN data_exception OR integrity_constraint_violation OR syntax_error_or_access_rule_violation THEN
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            RAISE EXCEPTION USING
                ERRCODE = SQLSTATE, MESSAGE = SQLERRM,
                DETAIL = COALESCE(NULLIF(detail, ''), 'With this row, no message could be stored.'),
                HINT = COALESCE(NULLIF(hint, ''), 'The comments on the columns of amqp.consumer say what they take.');
    END;
    -- The daemon may do more than whoever writes the row, and shall not do it for them.
    wrong := CASE
        WHEN NOT amqp_inner.consumer_may_write(NEW)
            THEN pg_catalog.format('table %s', NEW.target_table)
        WHEN NOT pg_catalog.has_function_privilege(meant::pg_catalog.oid, 'EXECUTE')
            THEN pg_catalog.format('function %s', NEW.target_function)
        END;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'permission denied for %', wrong
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'A consumer does for you only what you may do yourself.';
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_check() IS
'Trigger function of amqp.consumer: says what is wrong with a row.
Errors: 23514 the row contradicts itself, 42501 its writer may not write to the target, 22023,
23502 and others of class 42 it does not fit its target.';
