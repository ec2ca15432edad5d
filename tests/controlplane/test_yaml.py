"""YAML as kubectl reads it, and the line of every field."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from meshlib_control import yaml
from meshlib_control.mistakes import InvalidObject, child, item, line_of


def only(text: str) -> yaml.Document:
    (document,) = yaml.load(text, "f.yaml")
    return document


def refused(text: str) -> InvalidObject:
    with pytest.raises(InvalidObject) as caught:
        yaml.load(text, "f.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("yes", True),
        ("Off", False),
        ("y", True),
        ("~", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("1:30", "1:30"),
        ("0777", 511),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0b101", -5),
        ("1_000", 1000),
        ("08", 8.0),
        ("1e3", 1000.0),
        ("-.5", -0.5),
        (".inf", float("inf")),
        ("1.2.3", "1.2.3"),
        ("v1", "v1"),
        ('"80"', "80"),
        ("'yes'", "yes"),
        ("!!str 80", "80"),
        ("!!int '80'", 80),
        ("yEs", "yEs"),
    ],
)
def test_a_plain_scalar_means_what_it_means_to_kubectl(text: str, meant: Any) -> None:
    """go-yaml v2: YAML 1.1 booleans and octal numbers, no dates, no sexagesimal numbers."""
    assert only(f"a: {text}").data == {"a": meant}
    assert type(only(f"a: {text}").data["a"]) is type(meant)


def test_keys_are_text() -> None:
    """`80:` is "80", as JSON has it."""
    assert only("80: a\n1.5: b\ntrue: c\n").data == {"80": "a", "1.5": "b", "true": "c"}


def test_every_field_has_its_line() -> None:
    """Lists count by index, unusual keys stand in brackets."""
    document = only("kind: X\nspec:\n  http:\n  - route:\n    - a: 1\n  -\n    b: {c: 2}\nlabels:\n  app.io/name: x\n")
    assert document.lines == {
        "": 1,
        "kind": 1,
        "spec": 2,
        "spec.http": 3,
        "spec.http[0]": 4,
        "spec.http[0].route": 4,
        "spec.http[0].route[0]": 5,
        "spec.http[0].route[0].a": 5,
        "spec.http[1]": 7,
        "spec.http[1].b": 7,
        "spec.http[1].b.c": 7,
        "labels": 8,
        'labels["app.io/name"]': 9,
    }


def test_lines_go_on_over_documents() -> None:
    """A stream of documents counts its lines from its own beginning; empty documents are left out."""
    first, second = yaml.load("# hello\n---\na: 1\n---\n---\n# nothing\n---\nb: 2\n", "f.yaml")
    assert (first.data, first.lines["a"]) == ({"a": 1}, 3)
    assert (second.data, second.lines["b"]) == ({"b": 2}, 8)


@pytest.mark.parametrize("text", ["", "# only a comment", "---\n---\n"])
def test_text_without_content_holds_no_documents(text: str) -> None:
    """Comments and separators alone are nothing to apply."""
    assert yaml.load(text) == []


def test_a_missing_field_has_the_line_of_what_is_around_it() -> None:
    """A required field that is not there is reported where it should be."""
    lines = {"": 1, "spec": 3, "spec.http[0]": 5, 'metadata.labels["a.b/c"]': 9}
    assert line_of(lines, "spec.http[0].route[2].weight") == 5
    assert line_of(lines, "spec.hosts") == 3
    assert line_of(lines, 'metadata.labels["a.b/c"]') == 9
    assert line_of(lines, 'metadata.labels["d.e/f"]') == 1
    assert line_of({}, "spec.hosts") == 0


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    """YAML's own rule, which most readers break by taking the last one."""
    error = refused("a:\n  b: 1\n  c: 2\n  b: 3\n")
    assert (error.field, error.line) == ("a.b", 4)
    assert "line 2" in error.suggestion


@pytest.mark.parametrize(
    ("text", "line", "advice"),
    [
        ("a: 1\n\tb: 2\n", 2, "spaces"),
        ("a: b: c\n", 1, "indentation"),
        ("a: 'x\n", 2, "quote"),
        ("a:\n  - b\n c: d\n", 3, "indented"),
        ("a: *x\n", 1, "anchor"),
        ("a: @x\n", 1, "quotes"),
        ("a: *.example.com\n", 1, "quotes"),
        ("a: {b: 1\n", 2, ""),
        ("a: !ruby/object x\n", 1, "tag"),
        ("{{ .Values.x }}: 1\n", 1, "quotes"),
        ("a: \x01\n", 1, "UTF-8"),
    ],
)
def test_a_syntax_error_says_where_and_what_to_do(text: str, line: int, advice: str) -> None:
    """File, line and a suggestion, also for what templates leave behind."""
    error = refused(text)
    assert error.file == "f.yaml"
    assert error.line in {line, max(1, line - 1)}
    assert advice in error.suggestion
    assert error.suggestion


def test_merge_keys_fill_in_what_is_missing() -> None:
    """`<<` as in go-yaml; a merged field's line is where it was written, unless it was overridden."""
    document = only("base: &b\n  x: 1\n  w: 2\nuse:\n  <<: *b\n  w: 3\nboth:\n  <<: [*b, {z: 4}]\n")
    assert document.data["use"] == {"x": 1, "w": 3}
    assert document.data["both"] == {"x": 1, "w": 2, "z": 4}
    assert (document.lines["use.x"], document.lines["use.w"]) == (2, 6)


def test_an_alias_bomb_ends_early() -> None:
    """A small text cannot become gigabytes."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "values" in refused("\n".join(rows)).problem


def test_an_alias_of_itself_is_refused() -> None:
    """Endless data is no object."""
    assert "contains itself" in refused("a: &a [*a]\n").problem


def test_deep_nesting_is_refused_and_does_not_end_the_process() -> None:
    """Whether libyaml has a limit of its own (PyYAML 6.0.4 and newer) or not."""
    assert "nested deeper" in refused("[" * 200_000).problem
    assert "nested deeper" in refused("[" * 101 + "]" * 101).problem


def test_an_open_ipv6_address_in_a_flow_list_is_read_as_in_go() -> None:
    """Istio's own test data has one; libyaml alone refuses it."""
    assert only("a: [1.2.3.4, 2001:db8::, ::]\nb: 2\n").data == {"a": ["1.2.3.4", "2001:db8::", "::"], "b": 2}


def test_the_pure_reader_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libyaml the slower reader gives the same data and lines."""
    text = "a: yes\nb: [1, {c: 08}]\nd: 2020-01-01\ne: &x {f: '1'}\ng: {<<: *x, h: !!str 5}\n"
    expected = only(text)

    class Pure(pyyaml.SafeLoader):
        DEFAULT_SCALAR_TAG = "plain"
        yaml_implicit_resolvers = yaml._Loader.yaml_implicit_resolvers

    monkeypatch.setattr(yaml, "_Loader", Pure)
    assert only(text) == expected


def test_walk_yields_every_value_with_its_path() -> None:
    """Parents come before what is inside."""
    assert [path for path, _ in yaml.walk({"a": [{"b": 1}], "c/d": 2})] == ["", "a", "a[0]", "a[0].b", '["c/d"]']


KEYS = st.text("abcXYZ0129_-./", min_size=1, max_size=6)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text("ab 1:-.#'\"\n", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(data=st.dictionaries(KEYS, PLAIN, min_size=1, max_size=4))
def test_what_json_says_is_read_unchanged(data: dict[str, Any]) -> None:
    """JSON is YAML: every value survives, on one line and on many."""
    for indent in (None, 2):
        assert only(json.dumps(data, indent=indent)).data == data


@given(data=st.dictionaries(KEYS, PLAIN, min_size=1, max_size=4))
def test_every_value_has_a_line_and_a_parent_is_not_below_its_child(data: dict[str, Any]) -> None:
    """The line map is complete, and lines grow in the order of the text."""
    text = json.dumps(data, indent=1)
    document = only(text)
    assert set(document.lines) == {path for path, _ in yaml.walk(data)}
    assert all(1 <= line <= text.count("\n") + 1 for line in document.lines.values())
    for path, value in yaml.walk(data):
        parts = [child(path, key) for key in value] if isinstance(value, dict) else []
        parts += [item(path, index) for index in range(len(value))] if isinstance(value, list) else []
        assert all(document.lines[path] <= document.lines[part] for part in parts)


@given(data=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(), min_size=1, max_size=6))
def test_lines_point_at_the_text(data: dict[str, int]) -> None:
    """The line of a field holds its key."""
    text = "".join(
        f"{'# gap' + chr(10) if number % 2 else ''}{key}: {value}\n" for number, (key, value) in enumerate(data.items())
    )
    rows, lines = text.split("\n"), only(text).lines
    assert all(rows[lines[child("", key)] - 1].startswith(f"{key}:") for key in data)
