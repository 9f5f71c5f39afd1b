"""What a message's JSON body becomes."""

from __future__ import annotations

import pytest

from pg_amqp_daemon.consume.influxdb import line as line_module
from pg_amqp_daemon.consume.influxdb.line import LineWriter
from support.points import fault, line, source

PAGEVIEW = {
    "duration": 4.52,
    "uri": "/example",
    "user_agent": "Google Chrome",
    "user_id": "arthurdent",
}


def test_the_storage_exchanges_example_is_a_point() -> None:
    assert (
        line(LineWriter("{routing_key}"), source(PAGEVIEW))
        == 'pageview duration=4.52,uri="/example",user_agent="Google Chrome",user_id="arthurdent"'
    )


def test_a_field_that_is_named_as_a_tag_is_a_tag_instead() -> None:
    assert (
        line(LineWriter("{routing_key}", ["uri"]), source(PAGEVIEW))
        == 'pageview,uri=/example duration=4.52,user_agent="Google Chrome",user_id="arthurdent"'
    )


def test_values_of_each_type() -> None:
    body = {"i": 5, "f": 5.5, "big": 2**64 - 1, "t": True, "n": False, "s": "x", "null": None}
    assert (
        line(LineWriter("m"), source(body))
        == 'm i=5,f=5.5,big=18446744073709551615,t=true,n=false,s="x"'
    )


def test_what_is_nested_is_named_by_its_path() -> None:
    body = {"a": {"b": 1, "c": [2, {"d": 3}], "e": {}, "f": []}, "g": "x"}
    assert line(LineWriter("m"), source(body)) == 'm a.b=1,a.c.0=2,a.c.1.d=3,g="x"'


def test_paths_lead_into_what_is_nested() -> None:
    writer = LineWriter("m", ["a.b", "list=x{body.l.1}"], {"n.i": "integer", "n.x": "none"})
    body = {"a": {"b": "tag", "c": 1}, "l": [1, 2], "n": {"i": 3, "x": 4}}
    assert line(writer, source(body)) == "m,a.b=tag,list=x2 a.c=1,l.0=1,l.1=2,n.i=3i"


def test_two_values_at_one_path_are_a_fault() -> None:
    assert fault(LineWriter("m"), source({"a": {"b": 1}, "a.b": 2})) == (
        "22023",
        'the body has two values at "a.b"',
    )


def test_tags_stand_in_their_order_whatever_the_rows() -> None:
    writer = LineWriter("m", ["b", "c", "a=1"])
    assert line(writer, source({"c": 3, "b": 2, "v": 1})) == "m,a=1,b=2,c=3 v=1"


@pytest.mark.parametrize("value", [None, "", [], {"x": None}])
def test_a_tag_that_is_empty_is_left_out(value: object) -> None:
    writer = LineWriter("m", ["t", "other=x{body.missing}"])
    assert line(writer, source({"t": value, "v": 1})) == "m v=1"


def test_a_value_of_a_tag_is_text() -> None:
    writer = LineWriter("m", ["i", "f", "b", "n"])
    body = {"i": 5, "f": 0.5, "b": True, "n": False, "v": 1}
    assert line(writer, source(body)) == "m,b=true,f=0.5,i=5,n=false v=1"


def test_types_of_fields_that_the_row_says() -> None:
    fields = {"i": "integer", "whole": "integer", "s": "string", "f": "float", "x": "none"}
    writer = LineWriter("m", fields=fields)
    body = {"x": 1, "i": -(2**63), "whole": 7.0, "s": 5, "f": 2, "other": 3}
    assert line(writer, source(body)) == 'm other=3,i=-9223372036854775808i,whole=7i,s="5",f=2'
    assert line(writer, source({"s": True, "i": 1})) == 'm i=1i,s="true"'
    # What is missing is no field.
    assert line(writer, source({"i": None, "v": 1})) == "m v=1"


@pytest.mark.parametrize(
    ("value", "sqlstate"),
    [(1.5, "22023"), ("5", "22023"), (True, "22023"), (2**63, "22003"), (10**25, "22003")],
)
def test_what_is_no_integer_is_a_fault_where_the_row_says_so(value: object, sqlstate: str) -> None:
    found, text = fault(LineWriter("m", fields={"n": "integer"}), source({"n": value}))
    assert found == sqlstate
    assert '"n"' in text


def test_what_is_no_number_is_a_fault_where_the_row_says_float() -> None:
    writer = LineWriter("m", fields={"n": "float"})
    assert fault(writer, source({"n": "5"})) == ("22023", 'the field "n" is no number')


def test_an_integer_beyond_64_bits_is_a_float() -> None:
    assert line(LineWriter("m"), source({"n": 10**25})) == "m n=1e+25"


@pytest.mark.parametrize("body", [{}, {"a": None}, {"a": {}}, {"a": []}, {"t": "x"}])
def test_a_body_without_a_field_is_a_fault(body: object) -> None:
    sqlstate, text = fault(LineWriter("m", ["t"]), source(body))
    assert sqlstate == "22023"
    assert "no field" in text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e400}', b'{"a": "\xff"}', b"[" * 5000],
)
def test_a_body_that_is_no_json_is_a_fault(body: bytes) -> None:
    sqlstate, text = fault(LineWriter("m"), source(body))
    assert sqlstate == "22P02"
    assert "no JSON" in text


@pytest.mark.parametrize("body", [[{"a": 1}], 5, "text", None])
def test_a_body_that_is_no_object_is_a_fault(body: object) -> None:
    assert fault(LineWriter("m"), source(body)) == ("22023", "the body is no JSON object")


def test_a_body_that_is_nested_too_deeply_is_a_fault() -> None:
    body = b'{"a":' * 1000 + b"1" + b"}" * 1000
    assert fault(LineWriter("m"), source(body)) == ("54001", "the body is nested too deeply")


def test_a_message_that_lacks_what_names_its_measurement_is_a_fault() -> None:
    writer = LineWriter("x.{headers.kind}")
    assert line(writer, source({"v": 1}, headers={"kind": "y"})) == "x.y v=1"
    assert fault(writer, source({"v": 1}))[0] == "22004"
    assert fault(LineWriter("{routing_key}"), source({"v": 1}, routing_key=""))[0] == "22023"


def test_characters_that_end_a_name_are_escaped() -> None:
    writer = LineWriter("{routing_key}", ["t g="])
    body = {"t g=": "x"}
    writer = LineWriter("{routing_key}", ["t, g=a {body.v}"])
    body = {"v": "b,c=d", "f, g=": 'say "C:\\x"\n'}
    assert (
        line(writer, source(body, routing_key="a, b=c"))
        == 'a\\,\\ b=c,t\\,\\ g=a\\ b\\,c\\=d v="b,c=d",f\\,\\ g\\=="say \\"C:\\\\x\\"\n"'
    )


@pytest.mark.parametrize("text", ["a\\", "a\\,b", "a\\=b", "a\\ b", "a\\\\,b"])
def test_a_backslash_that_influxdb_would_read_as_an_escape_is_a_fault(text: str) -> None:
    assert "backslash" in fault(LineWriter("{routing_key}"), source({"v": 1}, routing_key=text))[1]
    assert "backslash" in fault(LineWriter("m", ["t"]), source({"v": 1, "t": text}))[1]
    assert "backslash" in fault(LineWriter("m"), source({text: 1}))[1]


def test_so_is_one_before_a_quotation_mark_but_in_a_tag() -> None:
    text = 'a\\"b'
    assert "backslash" in fault(LineWriter("{routing_key}"), source({"v": 1}, routing_key=text))[1]
    assert "backslash" in fault(LineWriter("m"), source({text: 1}))[1]
    assert line(LineWriter("m", ["t"]), source({"t": text, "v": text})) == (
        'm,t=a\\"b v="a\\\\\\"b"'
    )


@pytest.mark.parametrize("text", ["\\a", "a\\\\b", "C:\\temp"])
def test_any_other_backslash_stands_for_itself(text: str) -> None:
    writer = LineWriter("{routing_key}", ["t"])
    message = source({"t": text, text: 1}, routing_key=text)
    assert line(writer, message) == f"{text},t={text} {text}=1"


def test_a_line_break_in_a_name_or_tag_is_a_fault() -> None:
    assert "line break" in fault(LineWriter("m", ["t"]), source({"t": "a\nb", "v": 1}))[1]
    assert "control" in fault(LineWriter("{routing_key}"), source({"v": 1}, routing_key="a\nb"))[1]
    assert "control" in fault(LineWriter("m"), source({"a\nb": 1}))[1]


def test_what_influxdb_would_drop_without_a_word_is_a_fault() -> None:
    # A comment.
    message = source({"v": 1}, routing_key="#1")
    assert "begins with a #" in fault(LineWriter("{routing_key}"), message)[1]
    # Its name for the time of a point.
    assert '"time"' in fault(LineWriter("m"), source({"time": 1, "v": 1}))[1].replace("'", '"')
    assert line(LineWriter("m", fields={"time": "none"}), source({"time": 1, "v": 1})) == "m v=1"
    # A tab where a name begins.
    assert fault(LineWriter("m"), source({"\tv": 1}))[0] == "22023"
    assert "without a name" in fault(LineWriter("m"), source({"": 1}))[1]


def test_a_message_of_another_content_type_is_none_of_ours() -> None:
    writer = LineWriter("m")
    for other in ("text/plain", "application/jsonl", "", None, "application/octet-stream"):
        assert writer.line(source({"v": 1}, content_type=other)) is None


def test_a_content_type_may_have_parameters_and_capitals() -> None:
    writer = LineWriter("m")
    for same in ("application/json", "application/json; charset=utf-8", "Application/JSON"):
        assert line(writer, source({"v": 1}, content_type=same)) == "m v=1"


def test_content_types_that_the_row_says() -> None:
    writer = LineWriter("m", content_types=["application/vnd.x+json", "=json", "text/plain=line"])
    assert line(writer, source({"v": 1}, content_type="application/vnd.x+json")) == "m v=1"
    assert line(writer, source({"v": 1}, content_type=None)) == "m v=1"
    assert writer.line(source(b"a b=1 7", content_type="text/plain; charset=utf-8")) == b"a b=1 7"
    assert writer.line(source({"v": 1})) is None


def test_any_number_of_different_texts_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "_REMEMBERED", 3)
    writer = LineWriter("{routing_key}", ["t"])
    for i in range(20):
        message = source({"t": i, f"f{i % 9}": 1}, routing_key=f"k {i}")
        assert line(writer, message) == f"k\\ {i},t={i} f{i % 9}=1"
        assert writer.line(source({}, content_type=f"x/{i}")) is None


def test_texts_of_messages_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "_REMEMBERED", 3)
    written = line_module._Written(str.upper)
    assert [written[text] for text in "abcdefabc"] == [*"ABCDEFABC"]
    assert len(written) == 3


def test_texts_that_are_not_unicode_are_a_fault() -> None:
    assert fault(LineWriter("{routing_key}"), source({"v": 1}, routing_key="\udcff"))[0] == "22021"
    writer = LineWriter("m", ["t={headers.h}"])
    assert fault(writer, source({"v": 1}, headers={"h": b"\xff"}))[0] == "22021"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"measurement": ""}, "measurement: it is empty"),
        ({"measurement": "{uri}"}, 'measurement: a message has no "uri": it has routing_key'),
        ({"tags": ["a=1", "a"]}, 'tags: "a" is there twice'),
        ({"tags": [""]}, "without a name|a message has no"),
        ({"tags": ["=x"]}, "without a name"),
        ({"tags": ["time"]}, "the time of every point"),
        ({"tags": ["a={b}"]}, 'tags, "a=.b.": a message has no "b"'),
        ({"fields": {"a": "int"}}, 'fields: "a" must be integer, float, string, none, not "int"'),
        ({"fields": {"a": "float"}, "tags": ["a"]}, 'fields: "a" is a tag or the time'),
        ({"fields": {"a": "none"}, "time": "body.a:ms"}, 'fields: "a" is a tag or the time'),
        ({"fields": {"a\\": "float"}}, "fields: .*backslash"),
        ({"time": "at:ms"}, 'time: a message has no "at".*a unit may be :s, :ms, :us, :ns'),
        ({"content_types": []}, "content_types: there is none"),
        ({"content_types": ["json"]}, 'content_types: "json" is no content type'),
        ({"content_types": [""]}, 'content_types: "" is no content type'),
    ],
)
def test_a_row_that_cannot_be_is_refused_with_its_column(row: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        LineWriter(**{"measurement": "m", **row})  # type: ignore[arg-type]
