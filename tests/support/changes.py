"""Triggers that publish the changes of a table, and what they published."""

from __future__ import annotations

from typing import Any

import pytest

from support.messages import Delivery, Inbox
from support.sessions import Session


def publish_rows(session: Session, table: str, *template: str) -> None:
    """Publish every change of a table row by row."""
    arguments = ", ".join(f"'{text}'" for text in ("1", "amq.topic", *template))
    session.execute(
        f"""
        CREATE TRIGGER publish_rows AFTER INSERT OR UPDATE OR DELETE ON {table}
        FOR EACH ROW EXECUTE FUNCTION amqp.publish_change({arguments})
        """
    )


def publish_statements(
    session: Session,
    table: str,
    *template: str,
    new: str = "new_rows",
    old: str = "old_rows",
) -> None:
    """Publish every change of a table at the end of the statement."""
    arguments = ", ".join(f"'{text}'" for text in ("1", "amq.topic", *template))
    for operation, referencing in {
        "INSERT": f"NEW TABLE AS {new}",
        "UPDATE": f"OLD TABLE AS {old} NEW TABLE AS {new}",
        "DELETE": f"OLD TABLE AS {old}",
    }.items():
        session.execute(
            f"""
            CREATE TRIGGER publish_{operation} AFTER {operation} ON {table}
            REFERENCING {referencing}
            FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change({arguments})
            """
        )


def publish_truncate(session: Session, table: str, *template: str) -> None:
    """Publish the truncation of a table."""
    arguments = ", ".join(f"'{text}'" for text in ("1", "amq.topic", *template))
    session.execute(
        f"""
        CREATE TRIGGER publish_truncate AFTER TRUNCATE ON {table}
        FOR EACH STATEMENT EXECUTE FUNCTION amqp.publish_change({arguments})
        """
    )


LEVELS = pytest.mark.parametrize("level", ["row", "statement"])


def publish_changes(session: Session, table: str, level: str, *template: str) -> None:
    """Publish every change of a table at this level."""
    (publish_rows if level == "row" else publish_statements)(session, table, *template)


def changes(inbox: Inbox) -> list[tuple[str, Any, Any, Any]]:
    """Take all messages out: operation, new, old and changed columns of each."""
    return [
        (m["operation"], m["new"], m["old"], m["changed"])
        for m in (delivery.json for delivery in inbox.drain())
    ]


def only(deliveries: list[Delivery]) -> Delivery:
    """The one delivery that there is."""
    assert len(deliveries) == 1
    return deliveries[0]
