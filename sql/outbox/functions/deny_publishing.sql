CREATE FUNCTION amqp_inner.deny_publishing() RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
BEGIN
    RAISE EXCEPTION 'permission denied for schema amqp' USING ERRCODE = 'insufficient_privilege';
END
$$;

COMMENT ON FUNCTION amqp_inner.deny_publishing() IS
'Raises the error for who has no USAGE on schema amqp.';

-- Whatever default privileges say: whoever may insert a row needs it.
GRANT EXECUTE ON FUNCTION amqp_inner.deny_publishing() TO PUBLIC;
