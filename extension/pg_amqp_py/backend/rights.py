"""Who may use the functions: USAGE on schema amqp, whatever way a call comes by.

PostgreSQL looks at it where a name is looked up: not in a plan that another role of the same
session has made, and not for the functions of schema amqp_python, which everybody may call.
"""

from __future__ import annotations

from pg_amqp_py.backend import server, session
from pg_amqp_py.backend.errors import INSUFFICIENT_PRIVILEGE, WRONG_STATE, AMQPError
from pg_amqp_py.backend.server import Statement

# Names and operators are qualified: the caller's search_path means nothing here.
_find_schema = Statement("""
SELECT n.nspname OPERATOR(pg_catalog.=) 'amqp' AS named,
       pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS usable
FROM pg_catalog.pg_extension AS e
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace
WHERE e.extname OPERATOR(pg_catalog.=) 'pg_amqp_py'
""")


def require_usage() -> None:
    """Raise AMQPError unless the current user may use the functions."""
    if session.permitted.get(server.current_user()) != server.catalog_version():
        check_usage()


def check_usage() -> None:
    """Raise AMQPError unless the current user has USAGE on the extension's schema.

    It costs as much as several messages, so `session.permitted` remembers who has it, until the
    next change to a catalog.
    """
    server.refuse_parallel_mode()
    version = server.catalog_version()
    found = _find_schema()
    # Not what an owner of the schema has put in its place: see docs/design.md, Rights.
    if not len(found) or not found[0]["named"]:
        raise AMQPError(
            'the schema of extension "pg_amqp_py" is no longer named "amqp"', sqlstate=WRONG_STATE
        )
    if not found[0]["usable"]:
        raise AMQPError("permission denied for schema amqp", sqlstate=INSUFFICIENT_PRIVILEGE)
    session.permit(server.current_user(), version)
