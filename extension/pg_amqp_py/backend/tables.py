"""Who owns a table of the extension: whatever must be done to it is done with those rights."""

from __future__ import annotations

import plpy

from pg_amqp_py.backend.errors import UNDEFINED_TABLE, WRONG_OBJECT_TYPE, AMQPError

# Names and operators are qualified: the caller's search_path means nothing here.
_FIND = """
SELECT c.relowner::pg_catalog.int8 AS owner, c.relkind
FROM pg_catalog.pg_class AS c
WHERE c.relname OPERATOR(pg_catalog.=) $1
  AND c.relnamespace OPERATOR(pg_catalog.=)
      (SELECT n.oid FROM pg_catalog.pg_namespace AS n
       WHERE n.nspname OPERATOR(pg_catalog.=) 'amqp')
"""
_find = plpy.prepare(_FIND, ["pg_catalog.name"])


def owner_of(table: str) -> int:
    """The OID of the role that owns a table of schema amqp.

    Raises AMQPError if that is no ordinary table: a view or a foreign table put in its place
    would be somebody's code.
    """
    found = plpy.execute(_find, [table])
    if not len(found):
        raise AMQPError(
            f'table "amqp.{table}" does not exist',
            sqlstate=UNDEFINED_TABLE,
            hint="Is the extension pg_amqp_py installed in this database?",
        )
    if found[0]["relkind"] != "r":
        raise AMQPError(
            f'"amqp.{table}" is not an ordinary table',
            sqlstate=WRONG_OBJECT_TYPE,
            detail="Something else was put in the place of the extension's table.",
        )
    owner: int = found[0]["owner"]
    return owner
