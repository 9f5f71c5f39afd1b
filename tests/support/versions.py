"""Earlier versions of the extension, whose scripts are not installed any more."""

from __future__ import annotations

import re
from pathlib import Path

from support.sessions import Session

PROJECT = Path(__file__).parents[2]

# What CREATE EXTENSION does besides running the script.
MAKE_MEMBERS = """
SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
VALUES (999999, 'pg_amqp_py', 10, 'amqp'::regnamespace, false, '1.0.0');
RESET allow_system_table_mods;
ALTER EXTENSION pg_amqp_py ADD SCHEMA amqp_python;
DO $$
DECLARE f regprocedure; c pg_class;
BEGIN
    FOR c IN SELECT * FROM pg_class
             WHERE relnamespace = 'amqp'::regnamespace AND relkind IN ('r', 'S', 'v') LOOP
        EXECUTE format(
            'ALTER EXTENSION pg_amqp_py ADD %s amqp.%I',
            CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'S' THEN 'SEQUENCE' ELSE 'VIEW' END,
            c.relname);
    END LOOP;
    FOR f IN SELECT oid FROM pg_proc
             WHERE pronamespace IN ('amqp'::regnamespace, 'amqp_python'::regnamespace) LOOP
        EXECUTE format('ALTER EXTENSION pg_amqp_py ADD FUNCTION %s', f);
    END LOOP;
END
$$;
"""


def create_version(session: Session, version: str) -> None:
    """Do what CREATE EXTENSION VERSION did, whose script is not installed any more."""
    script = (PROJECT / f"tests/upgrade/pg_amqp_py--{version}.sql").read_text()
    config = re.findall(r"pg_extension_config_dump\('(.*)', ''\)", script)
    script = re.sub(
        r"^(\\echo|SELECT pg_catalog.pg_extension_config_dump).*", "", script, flags=re.M
    )
    session.execute("CREATE EXTENSION plpython3u; CREATE SCHEMA amqp")
    with session.transaction():
        session.execute("SET LOCAL search_path = amqp, pg_temp")
        session.execute(script.encode())
    session.execute(MAKE_MEMBERS)
    session.execute(
        "UPDATE pg_extension SET extversion = %s, extconfig = %s::regclass[]::oid[],"
        " extcondition = array_fill(''::text, ARRAY[%s]) WHERE extname = 'pg_amqp_py'",
        [version, config, len(config)],
    )
