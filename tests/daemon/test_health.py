"""Whether all is well, asked of parts."""

from __future__ import annotations

from pg_amqp_daemon.runtime.health import Condition, Health


def test_all_is_well_where_nobody_can_be_asked() -> None:
    assert Health().answer() == (True, {"healthy": True})


def test_each_part_is_shown_in_the_order_of_the_questions() -> None:
    health = Health()
    health.register("database", lambda: Condition("ok"))
    health.register("brokers", lambda: Condition({"1": "leading"}))
    well, answer = health.answer()
    assert well
    assert list(answer.items()) == [
        ("healthy", True),
        ("database", "ok"),
        ("brokers", {"1": "leading"}),
    ]


def test_what_was_wrong_last_is_remembered() -> None:
    health = Health()
    conditions = [Condition("down", "no answer"), Condition("ok")]
    health.register("database", lambda: conditions[0])
    assert health.answer() == (
        False,
        {"healthy": False, "database": "down", "last_error": "no answer"},
    )
    conditions.pop(0)
    assert health.answer() == (
        True,
        {"healthy": True, "database": "ok", "last_error": "no answer"},
    )


def test_of_several_troubles_the_one_that_was_asked_for_first_matters() -> None:
    health = Health()
    health.register("database", lambda: Condition("down", "no answer"))
    health.register("brokers", lambda: Condition({}, "no broker"))
    assert health.answer()[1]["last_error"] == "no answer"
