"""Slips in what there is for STOMP: destinations, headers, and the page that follows a table."""

from __future__ import annotations

from mutants.slip import Slip

_FUNCTIONS = "sql/outbox/functions"
_ADDRESSES = "tests/destinations/test_addresses.py"
_PUBLISHING = "tests/destinations/test_publishing.py"
_PAGE = "examples/live"
_HISTORIES = "tests/live/test_table.py"

SLIPS = [
    Slip(
        "a slash in a queue's name stays escaped",
        f"{_FUNCTIONS}/stomp_address.sql",
        "routing_key := replace(queue, '%2F', '/');",
        "routing_key := queue;",
        (_ADDRESSES,),
    ),
    Slip(
        "what is behind a key is left out",
        f"{_FUNCTIONS}/stomp_address.sql",
        "kind = 'topic' AND parts[3] <> '' AND cardinality(parts) = 3",
        "kind = 'topic' AND parts[3] <> ''",
        (_ADDRESSES,),
    ),
    Slip(
        "a double is left to be dropped",
        f"{_FUNCTIONS}/stomp_headers.sql",
        "h.value::text ~ '^-?[0-9]{1,19}$'",
        "h.value::text ~ '^-?[0-9.]{1,19}$'",
        (_PUBLISHING,),
    ),
    Slip(
        "a header may say which subscription a message is for",
        f"{_FUNCTIONS}/stomp_headers.sql",
        "'message-id', 'subscription', ",
        "'message-id', ",
        (_ADDRESSES,),
    ),
    Slip(
        "a missing queue is not told",
        "sql/extension/functions/publish_stomp.sql.in",
        "text         | a.exchange | a.routing_key | COALESCE(mandatory, a.exchange = '')",
        "text         | a.exchange | a.routing_key | COALESCE(mandatory, false)",
        (_PUBLISHING,),
    ),
    Slip(
        "the page takes changes that are in its snapshot",
        f"{_PAGE}/table.js",
        "    if (this.#snapshot.sees(change.transaction_id)) return [];\n",
        "",
        (_HISTORIES,),
    ),
    Slip(
        "an older change of a row comes over a newer one",
        f"{_PAGE}/table.js",
        "    if (row[this.version] <= this.#known(key)) return [];\n",
        "",
        (_HISTORIES,),
    ),
    Slip(
        "what was deleted comes back with an older change",
        f"{_PAGE}/table.js",
        "    this.#deleted.set(key, row[this.version]);\n",
        "",
        (_HISTORIES,),
    ),
    Slip(
        "the page asks before its changes are kept",
        f"{_PAGE}/live.js",
        "function begin() {\n  table.begin();\n",
        "function begin() {\n",
        ("tests/live/test_page.py::test_changes_while_the_network_is_lost",),
    ),
    Slip(
        "an answer goes wherever a stranger says",
        f"{_PAGE}/setup.sql",
        "= m.body\n    HAVING m.reply_to LIKE 'amq.gen-%';",
        "= m.body;",
        ("tests/live/test_rights.py",),
    ),
]
