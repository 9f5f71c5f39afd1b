-- A member of a role may have become it since it connected.
CREATE FUNCTION amqp_inner.outbox_may_work(role oid) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN has_table_privilege($1, 'amqp.outbox'::regclass, 'DELETE')
       OR EXISTS (SELECT FROM pg_roles AS r
                  WHERE pg_has_role($1, r.oid, 'MEMBER') AND has_table_privilege(r.oid, 'amqp.outbox'::regclass, 'DELETE'));

COMMENT ON FUNCTION amqp_inner.outbox_may_work(oid) IS
'Part of the outbox: whether a role, or one that it may become, may work it: DELETE on '
'amqp.outbox.';
