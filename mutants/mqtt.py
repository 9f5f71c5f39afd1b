"""Slips in what has to do with MQTT."""

from __future__ import annotations

from mutants.slip import Slip

_RELAY = "daemon/pg_amqp_daemon/relay"
_RETAINED = "tests/mqtt/test_retained.py"
_FAILURES = "tests/mqtt/test_failures.py"
_ROWS = "tests/outbox/test_retained_rows.py"

SLIPS = [
    Slip(
        "a retained message goes by AMQP as well",
        "sql/outbox/functions/outbox_due.sql.in",
        "              AND r.next_attempt_at IS NULL AND r.retain IS NOT TRUE\n",
        "              AND r.next_attempt_at IS NULL\n",
        (_ROWS, f"{_RETAINED}::test_whoever_is_subscribed_sees_it_once"),
    ),
    Slip(
        "a dot in a topic becomes a level",
        "sql/outbox/functions/mqtt_publish_key.sql",
        "topic !~ '[.*+#]|(^|/)(/|$)'",
        "topic !~ '[*+#]|(^|/)(/|$)'",
        ("tests/mqtt/test_topics.py",),
    ),
    Slip(
        "a captured message is retained all the same",
        "sql/extension/functions/publish_mqtt.sql.in",
        "AND NOT COALESCE(NULLIF(current_setting('amqp.capture', true), ''), 'off')::boolean",
        "",
        ("tests/mqtt/test_topics.py::test_what_is_captured_is_not_stored",),
    ),
    Slip(
        "a dead letter forgets that it is to be retained",
        "sql/outbox/functions/retry_dead_letters.sql.in",
        "letter.last_error, letter.retain)",
        "letter.last_error, NULL)",
        (f"{_RETAINED}::test_a_dead_letter_keeps_what_it_is",),
    ),
    Slip(
        "a message is not retained after all",
        f"{_RELAY}/mqtt_connection.py",
        "message.topic, message.body, qos=1, retain=True, properties=properties",
        "message.topic, message.body, qos=1, retain=False, properties=properties",
        (f"{_RETAINED}::test_whoever_subscribes_later_sees_it",),
    ),
    Slip(
        "what waits does not hold back its topic",
        f"{_RELAY}/retained.py",
        "        return message.topic not in self._held\n",
        "        return message.is_due\n",
        (f"{_RETAINED}::test_what_waits_holds_back_its_topic_alone",),
    ),
    Slip(
        "nobody finds out which message ends the connection",
        f"{_RELAY}/mqtt_publisher.py",
        "                self._suspect(run, str(error))\n",
        "                pass\n",
        (f"{_FAILURES}::test_a_topic_that_is_forbidden_does_not_stop_the_others",),
    ),
    Slip(
        "two messages of a topic are under way together",
        f"{_RELAY}/mqtt_run.py",
        "other.topic == message.topic or ",
        "",
        ("tests/mqtt/test_run.py",),
    ),
]
