"""YAML as kubectl reads it, with the line of every field.

Rules: YAML 1.1 booleans (`yes`, `on`), octal and hexadecimal integers; no dates and no sexagesimal numbers, which stay text as
in kubectl; keys are text (`80:` is "80"); a key given twice is an error. libyaml reads if PyYAML has it, else the pure reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from meshlib_control.mistakes import InvalidObject, child, item

MAX_VALUES: Final = 200_000
"""Values that one text may hold after its aliases are written out: an alias bomb ends here."""

MAX_DEPTH: Final = 100
"""Levels of nesting; Istio's deepest kind needs about fifteen."""

_TOO_DEEP: Final = f"nested deeper than {MAX_DEPTH} levels"

_BASE: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# go-yaml v2, resolve.go: what a plain scalar means to kubectl. Words are matched whole, in these spellings only.
_BOOL: Final = re.compile(r"y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF")
_NULL: Final = re.compile(r"~|null|Null|NULL|")
_INT: Final = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_OPEN_ADDRESS: Final = re.compile(r"(?<=[\[,\s])[0-9A-Fa-f:]*::(?=\s*[,\]])")
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

_ADVICE: Final = (
    ("'\\t'", "indent with spaces, YAML does not allow tabs"),
    ("tab character", "indent with spaces, YAML does not allow tabs"),
    ("mapping values are not allowed", "check the indentation, or put a value that contains ': ' in quotes"),
    ("could not find expected ':'", "check that the line before ends with ':' or has a value"),
    ("expected <block end>", "check that this line is indented like its neighbours"),
    ("did not find expected key", "check that this line is indented like its neighbours"),
    ("did not find expected '-' indicator", "check that this line is indented like its neighbours"),
    ("did not find expected alphabetic or numeric character", 'put a value that begins with * or & in quotes: "*"'),
    (_TOO_DEEP, "no kind of Istio's is that deep: check the brackets"),
    ("alias", "define the anchor with & before it is used with *"),
    ("found unexpected end of stream", "close the quote"),
    ("cannot start any token", "put the value in quotes"),
)


class _Loader(_BASE):  # type: ignore[misc]
    """Makes nodes only; `_Reader` turns them into data. Resolves no plain scalar by itself."""

    DEFAULT_SCALAR_TAG = "plain"  # what carries no tag, unlike an explicit !!str
    depth = 0

    def descend_resolver(self, node: yaml.Node | None, _index: object) -> None:
        """Called on the way into each node: C code before PyYAML 6.0.4 recurses without a limit and would end the process."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=node.start_mark if node else None)

    def ascend_resolver(self) -> None:
        """Called on the way out of each node."""
        self.depth -= 1


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:merge"]
    for first, resolvers in _BASE.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a YAML stream.

    Args:
        data: plain data: dict, list, str, int, float, bool, None.
        lines: 1-based line of each field path; the path of the document itself is "".
        file: as the operator named it.
    """

    data: Any
    lines: Mapping[str, int] = field(default_factory=dict)
    file: str = ""


def load(text: str, file: str = "") -> list[Document]:
    """All documents of `text` that are not empty.

    Raises:
        InvalidObject: not YAML, a key given twice, an unknown tag; with file, line and what to do.
    """
    documents = (_Reader(file).document(node) for node in _nodes(text, file))
    return [document for document in documents if document.data is not None]


def _nodes(text: str, file: str) -> list[yaml.Node]:
    try:
        return [node for node in yaml.compose_all(text, Loader=_Loader) if node is not None]
    except yaml.MarkedYAMLError as error:
        mended = _with_quoted_addresses(text, error)
        if mended != text:
            return _nodes(mended, file)
        raise _syntax_error(error, file) from error
    except yaml.reader.ReaderError as error:
        problem = f"a character that YAML does not allow: {error.reason}"
        line = next((number for number, row in enumerate(text.split("\n"), 1) if _CONTROL.search(row)), 0)
        raise InvalidObject(problem, suggestion="save the file as plain UTF-8 text", file=file, line=line) from error


def _with_quoted_addresses(text: str, error: yaml.MarkedYAMLError) -> str:
    """libyaml refuses `[2001:db8::]`, go-yaml reads it: quotes around such addresses in the line of the error."""
    if error.problem_mark is None or error.problem != "found unexpected ':'":
        return text
    rows = text.split("\n")
    if error.problem_mark.line < len(rows):
        rows[error.problem_mark.line] = _OPEN_ADDRESS.sub(r'"\g<0>"', rows[error.problem_mark.line])
    return "\n".join(rows)


def _syntax_error(error: yaml.MarkedYAMLError, file: str) -> InvalidObject:
    mark = error.problem_mark or error.context_mark
    reason = error.problem or error.context or ""
    if "maximum nesting depth" in reason:  # libyaml's own limit (PyYAML 6.0.4), which reads ahead and so may come first
        reason = _TOO_DEEP
    words = f"{error.context or ''} {reason}"
    advice = next((advice for sign, advice in _ADVICE if sign in words), "check the indentation and the quotes around it")
    problem = f"not valid YAML: {reason}"
    return InvalidObject(problem, suggestion=advice, file=file, line=mark.line + 1 if mark else 0)


class _Reader:
    """Turns the nodes of one document into data, noting lines on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[str, int] = {}
        self.values = 0
        self.open: set[int] = set()

    def document(self, node: yaml.Node) -> Document:
        data = self.value(node, "", node.start_mark.line + 1)
        return Document(data, self.lines, self.file)

    def value(self, node: yaml.Node, path: str, line: int) -> Any:
        self.lines[path] = line
        self.values += 1
        if self.values > MAX_VALUES:
            raise self.wrong(f"more than {MAX_VALUES} values", path, line, "split the file, or use fewer aliases")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if id(node) in self.open:
            raise self.wrong("an alias that contains itself", path, line)
        self.open.add(id(node))
        value = self.mapping(node, path) if isinstance(node, yaml.MappingNode) else self.sequence(node, path)
        self.open.remove(id(node))
        return value

    def sequence(self, node: yaml.Node, path: str) -> list[Any]:
        return [self.value(part, item(path, index), part.start_mark.line + 1) for index, part in enumerate(node.value)]

    def mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        data: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.key(key_node, path), key_node.start_mark.line + 1
            if key in data:
                advice = f"it is already in line {first_lines[key]}: remove one of the two"
                raise self.wrong(f"the key {key} is given twice", child(path, key), line, advice)
            first_lines[key] = line
            data[key] = self.value(value_node, child(path, key), line)
        return self.merged(node, path, data)

    def merged(self, node: yaml.MappingNode, path: str, data: dict[str, Any]) -> dict[str, Any]:
        for key_node, value_node in node.value:
            if key_node.tag != "tag:yaml.org,2002:merge":
                continue
            for part in value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]:
                if not isinstance(part, yaml.MappingNode):
                    raise self.wrong("<< needs a mapping", path, key_node.start_mark.line + 1)
                for key, value in self.hidden(part, path).items():
                    data.setdefault(key, value)
        return data

    def hidden(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        """The data of a merged mapping; lines that the mapping itself has win over those of the merged one."""
        known, self.lines = self.lines, {}
        data: dict[str, Any] = self.value(node, path, node.start_mark.line + 1)
        self.lines = {**self.lines, **known}
        return data

    def key(self, node: yaml.Node, path: str) -> str:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            raise self.wrong("a key that is not text", path, line, "put {{ }} templates in quotes")
        key = self.scalar(node, path)
        if key is None:
            raise self.wrong("a key without text", path, line, "write the key before the ':'")
        return str(key).lower() if isinstance(key, bool) else str(key)

    def scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "plain":
                return node.value if node.style else _plain(node.value)
            case "str" | "!":
                return node.value
            case "bool" | "int" | "float" | "null":
                return _plain(node.value)
        raise self.wrong(f"the tag {node.tag} has no meaning here", path, node.start_mark.line + 1, "remove the tag")

    def wrong(self, problem: str, path: str, line: int, advice: str = "") -> InvalidObject:
        return InvalidObject(problem, suggestion=advice, field=path, file=self.file, line=line)


def _plain(text: str) -> Any:
    """What a scalar without quotes means."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() in {"y", "yes", "true", "on"}
    if _INT.fullmatch(text):
        return _integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _integer(text: str) -> int:
    digits = text.lstrip("+-")
    if re.fullmatch(r"0[0-7]+", digits):  # 0777 is octal to YAML 1.1
        digits = f"0o{digits[1:]}"
    number = int(digits, 0)
    return -number if text.startswith("-") else number


def walk(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside with its path, parents first."""
    yield path, data
    if isinstance(data, dict):
        for key, value in data.items():
            yield from walk(value, child(path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from walk(value, item(path, index))
