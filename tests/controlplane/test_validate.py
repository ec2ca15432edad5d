"""Istio's rules over the fields of one object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshlib_control import objects, validate, yaml
from meshlib_control.validate import formats
from tests.support.mistaken import mistakes_in

CONFORMANCE = Path(__file__).parents[3] / "shared" / "conformance"
CRDS = CONFORMANCE / "istio" / "pkg" / "config" / "validation" / "testdata" / "crds"
# What Istio accepts or refuses and we do otherwise, with the reason. Empty: there is no such document.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def conformance_documents() -> list[Any]:
    if not CRDS.is_dir():
        return [pytest.param(None, "", marks=pytest.mark.skip(reason="no conformance data"), id="crds")]
    cases = []
    for file in sorted(CRDS.glob("*.yaml")):
        for document in yaml.load(file.read_text(), file.name):
            error = document.data.pop("_err", "")
            line = document.lines[""]
            cases.append(pytest.param(document, error, id=f"{file.stem}:{line}"))
    return cases


@pytest.mark.parametrize(("document", "error"), conformance_documents())
def test_istios_own_cases_are_accepted_and_refused_as_istio_does(document: yaml.Document, error: str) -> None:
    """The documents of Istio's schema tests: a refused one is refused with Istio's words."""
    told = [f"{mistake.field}: {mistake.problem}" for mistake in mistakes_in(document)]
    if error:
        assert any(error in text for text in told), told
    else:
        assert told == []


def test_all_of_istios_files_are_there() -> None:
    """22 files; none is left out silently."""
    if not CRDS.is_dir():
        pytest.skip("no conformance data")
    assert len(list(CRDS.glob("*.yaml"))) == 22
    assert EXCEPTIONS == {}


def test_the_error_names_the_line_of_the_field() -> None:
    """Not only that something is wrong."""
    text = (
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: a\n"
        "spec:\n  portLevelMtls:\n    80: {mode: STRICT}\n"
    )
    (found,) = objects.read(yaml.load(text, "p.yaml")[0])
    with pytest.raises(validate.InvalidObject, match=r"p\.yaml:6: spec\.portLevelMtls: portLevelMtls requires selector"):
        validate.check(found)


def test_kinds_that_are_only_kept_are_not_judged() -> None:
    """A Deployment is Kubernetes' matter."""
    data = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": "x"}}
    (found,) = objects.read(yaml.Document(data))
    assert validate.mistakes(found) == []


@pytest.mark.parametrize(
    ("text", "good"), [("a.b.", True), ("a..b", False), ("1.2.3", False), ("A-1.b", True), ("-a", False), ("a" * 64, False)]
)
def test_a_host_is_made_of_dns_labels(text: str, good: bool) -> None:
    """The last one may not be a number: that would be an address."""
    assert (formats.fqdn(text) == "") is good


@pytest.mark.parametrize(
    ("text", "good"), [("*", True), ("*.a", True), ("*a.b", True), ("*-a.b", True), ("a*.b", False), ("a.*", False)]
)
def test_a_wildcard_stands_at_the_beginning(text: str, good: bool) -> None:
    """Only in the first label."""
    assert (formats.wildcard_host(text) == "") is good
