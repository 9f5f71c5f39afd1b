-- It is there already, and belongs to whoever runs this. Everybody may call what is in it: that runs with the rights of its
-- caller, and what could do without any looks for the privilege itself. Whatever default privileges say.
REVOKE ALL ON SCHEMA amqp_inner FROM PUBLIC;
GRANT USAGE ON SCHEMA amqp_inner TO PUBLIC;

COMMENT ON SCHEMA amqp_inner IS
'Inner parts of pg_amqp_py: what calls them is in schema amqp, or is pg-amqp.';
