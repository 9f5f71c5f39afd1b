"""docs/reference/functions.md is what the extension's own comments say."""

from __future__ import annotations

import re
from pathlib import Path

from support.sessions import Session

PROJECT = Path(__file__).parents[2]
PAGE = "docs/reference/functions.md"
HEAD = """# Functions

What `\\df+` shows: made of the comments in `sql/`, which is where to change them.
"""
FUNCTIONS = """
SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
       obj_description(p.oid, 'pg_proc')
FROM pg_depend AS d
JOIN pg_extension AS e ON e.oid = d.refobjid
JOIN pg_proc AS p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
WHERE d.deptype = 'e' AND e.extname = 'pg_amqp_py' AND p.pronamespace = 'amqp'::regnamespace
  AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Part of %'
ORDER BY p.proname, p.oid
"""


def page(session: Session) -> str:
    """The page: functions of one name and one comment stand together."""
    heads: dict[tuple[str, str], list[str]] = {}
    for name, arguments, result, comment in session.execute(FUNCTIONS):
        given = re.sub(r"NULL::[a-z ]+", "NULL", arguments)
        if len(given) > 60:
            given = "\n    " + given.replace(", ", ",\n    ") + "\n"
        heads.setdefault((name, comment), []).append(f"amqp.{name}({given}) RETURNS {result}")
    sections = [
        "\n## {}\n\n```\n{}\n```\n\n{}\n".format(
            name, "\n".join(calls), comment.replace(". ", ".\n")
        )
        for (name, comment), calls in heads.items()
    ]
    return HEAD + "".join(sections)


def test_the_page_is_up_to_date(session: Session) -> None:
    found = page(session)
    made = PROJECT / "build" / "functions.md"
    made.write_text(found)
    assert (PROJECT / PAGE).read_text() == found, f"cp {made.relative_to(PROJECT)} {PAGE}"
