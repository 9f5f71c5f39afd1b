"""Templates, and what may stand in them."""

from __future__ import annotations

import pytest

from pg_amqp_daemon.consume.influxdb.template import compile_template
from support.points import source

BODY = {"room": "7", "deep.list.0": 1.5, "yes": True, "null": None}
HEADERS = {
    "tenant": "acme",
    "a.b": "dotted",
    "x-death": [{"queue": "q1", "count": 2}],
    "table": {"x.y": {"z": 1}},
    "bytes": b"text",
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("plain", "plain"),
        ("{routing_key}", "pageview"),
        ("{exchange}/{queue}", "metrics/pageviews"),
        ("a{body.room}b{body.deep.list.0}c", "a7b1.5c"),
        ("{body.yes}", "true"),
        ("{headers.tenant}", "acme"),
        ("{headers.a.b}", "dotted"),
        ("{headers.x-death.0.queue}", "q1"),
        ("{headers.x-death.0.count}", "2"),
        ("{headers.bytes}", "text"),
        ("{type}.{app_id}", "reading.sensor"),
        ("{timestamp}", "1397597512"),
        ("{{{body.room}}}", "{7}"),
        ("{{x}}", "{x}"),
        ("", ""),
    ],
)
def test_what_a_template_gives(template: str, text: str) -> None:
    message = source(b"", headers=HEADERS, type="reading", app_id="sensor")
    assert compile_template(template)(message, BODY) == text


@pytest.mark.parametrize(
    "template",
    [
        "{body.missing}",
        "x{body.null}",
        "{headers.missing}x",
        "{headers.table}",
        "{headers.x-death.1.queue}",
        "{headers.x-death.queue}",
        "{headers.tenant.x}",
        "{message_id}",
    ],
)
def test_a_template_whose_part_is_missing_gives_nothing(template: str) -> None:
    assert compile_template(template)(source(b"", headers=HEADERS), BODY) is None


@pytest.mark.parametrize("template", ["{", "a}b", "{a{b}", "{{{routing_key}}"])
def test_a_brace_that_stands_alone_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="stands alone: the character itself is written twice"):
        compile_template(template)


@pytest.mark.parametrize(
    "name", ["", "uri", "body", "body.", "headers", "Routing_Key", " queue", "cluster_id"]
)
def test_a_name_that_no_message_has_is_refused_with_those_that_it_has(name: str) -> None:
    with pytest.raises(ValueError, match=r"has no .*routing_key, exchange, queue, .*message_id"):
        compile_template(f"{{{name}}}")


def test_headers_are_decoded_only_for_who_asks() -> None:
    message = source(b"")._replace(headers=lambda: pytest.fail("decoded"))
    assert compile_template("{routing_key}{type}")(message, {}) is None
