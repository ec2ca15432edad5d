"""Documents become objects: kinds, versions, names, lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshlib_control import objects, yaml
from meshlib_control.intake import accept
from meshlib_control.kinds import PeerAuthentication, VirtualService
from meshlib_control.mistakes import InvalidObject
from meshlib_control.model import MeshObject, ObjectKey

REVIEWS = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  labels: {app: reviews, example.com/team: a_b.c}
  annotations: {note: "any text at all"}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination:
        host: reviews
"""


def read(text: str, namespace: str = "default") -> list[MeshObject]:
    return [found for document in yaml.load(text, "f.yaml") for found in objects.read(document, namespace)]


def refused(text: str) -> InvalidObject:
    with pytest.raises(InvalidObject) as caught:
        read(text)
    return caught.value


def test_an_object_knows_where_it_comes_from() -> None:
    """Key, version, labels, lines, file and the typed spec."""
    (found,) = read(REVIEWS)
    assert found.key == ObjectKey("networking.istio.io", "VirtualService", "default", "reviews")
    assert found.api_version == "networking.istio.io/v1"
    assert found.labels == {"app": "reviews", "example.com/team": "a_b.c"}
    assert found.annotations == {"note": "any text at all"}
    assert found.lines["spec.http[0]"] == 10
    assert (found.file, found.source) == ("f.yaml", "api")
    assert isinstance(found.spec, VirtualService)


def test_the_namespace_of_the_command_is_for_objects_without_one() -> None:
    """What the document says comes first."""
    assert read(REVIEWS, "shop")[0].key.namespace == "shop"
    assert read(REVIEWS.replace("  name:", "  namespace: own\n  name:"), "shop")[0].key.namespace == "own"


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_all_versions_of_a_group_are_the_same_kind(version: str) -> None:
    """Istio's versions have the same fields."""
    (found,) = read(REVIEWS.replace("istio.io/v1", f"istio.io/{version}"))
    assert found.key.group == "networking.istio.io"


@pytest.mark.parametrize(
    ("api_version", "kind", "field", "advice"),
    [
        ("networking.istio.io/v2", "VirtualService", "apiVersion", "networking.istio.io/v1"),
        ("v1", "VirtualService", "apiVersion", "networking.istio.io/v1"),
        ("networking.istio.io/v1", "PeerAuthentication", "apiVersion", "security.istio.io/v1"),
        ("networking.istio.io/v1", "VirtualServce", "kind", "did you mean VirtualService?"),
        ("networking.istio.io/v1", "Nonsense", "kind", "known in networking.istio.io"),
        ("netwrking.istio.io/v1", "VirtualService", "apiVersion", "networking.istio.io/v1"),
        ("config.istio.io/v1", "Rule", "apiVersion", ""),
        ("security.istio.io/v1alpha3", "PeerAuthentication", "apiVersion", "security.istio.io/v1"),
    ],
)
def test_an_unknown_kind_or_version_is_answered_with_the_right_one(
    api_version: str, kind: str, field: str, advice: str
) -> None:
    """What to write instead is said."""
    error = refused(f"apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\n")
    assert error.field == field
    assert error.line in {1, 2}
    assert advice in error.suggestion


def test_kinds_of_others_are_kept_as_they_are() -> None:
    """A cert-manager Certificate is nobody's mistake."""
    (found,) = read("apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: a}\nspec: {x: [1]}\n")
    assert found.spec is None
    assert found.raw["spec"] == {"x": [1]}


def test_kubernetes_objects_keep_fields_outside_of_spec() -> None:
    """A ConfigMap has `data`."""
    (found,) = read("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n")
    assert found.raw["data"] == {"k": "v"}


def test_what_belongs_to_the_cluster_has_no_namespace() -> None:
    """A Namespace is in none."""
    (found,) = read("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
    assert found.key.namespace == ""


def test_a_list_is_its_items_with_their_own_lines() -> None:
    """`kubectl get -o yaml` writes one."""
    text = "apiVersion: v1\nkind: List\nitems:\n" + "".join(
        f"{'- ' if n == 0 else '  '}{row}\n" for n, row in enumerate(REVIEWS.splitlines())
    )
    (found,) = read(text)
    assert found.key.name == "reviews"
    assert found.lines["spec.http[0].route[0].destination.host"] == 15
    error = refused(text.replace("host: reviews", "hst: reviews"))
    assert (error.field, error.line) == ("spec.http[0].route[0].destination.hst", 15)


@pytest.mark.parametrize(
    ("before", "after", "field"),
    [
        ("name: reviews\n", "name: Reviews_1\n", "metadata.name"),
        ("name: reviews\n", "name: 5\n", "metadata.name"),
        ("name: reviews\n", 'name: ""\n', "metadata.name"),
        ("  name: reviews\n", "", "metadata.name"),
        ("  name: reviews\n", "  name: a\n  namespace: a.b\n", "metadata.namespace"),
        ("  name: reviews\n", "  generateName: a-\n", "metadata.generateName"),
        ("  name: reviews\n", "  name: a\n  lables: {}\n", "metadata.lables"),
        ("app: reviews", "app: 5", "metadata.labels.app"),
        ("app: reviews", "app: 'a b'", "metadata.labels.app"),
        ("app: reviews", "-app: b", "metadata.labels.-app"),
        ('note: "any text at all"', "note: true", "metadata.annotations.note"),
        ("spec:", "spce:", "spce"),
        ("kind: VirtualService\n", "", "kind"),
    ],
)
def test_metadata_follows_the_rules_of_kubernetes(before: str, after: str, field: str) -> None:
    """Names, labels and annotations, with a hint where one is possible."""
    assert before in REVIEWS
    assert refused(REVIEWS.replace(before, after)).field == field


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "5\n"])
def test_what_is_no_object_is_refused(text: str) -> None:
    """With what a document begins with."""
    assert "apiVersion" in refused(text).suggestion


def test_an_error_reads_as_file_line_field_problem_and_advice() -> None:
    """One line says everything."""
    error = refused(REVIEWS.replace("hosts:", "host:"))
    assert str(error) == 'f.yaml:8: spec.host: unknown field "host"; did you mean hosts?'


def test_a_spec_that_is_needed_is_asked_for() -> None:
    """A ServiceEntry without spec is nothing, a PeerAuthentication without spec is a default."""
    error = refused("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\n")
    assert (error.field, error.problem) == ("spec", "Required value")
    (found,) = read("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\n")
    assert found.spec == PeerAuthentication()


def test_what_a_server_added_is_left_out() -> None:
    """The output of `get -o yaml` can be applied again and changes nothing."""
    added = REVIEWS.replace("  name:", "  uid: x\n  resourceVersion: '5'\n  name:") + "status: {conditions: []}\n"
    assert accept(added)[0].raw == accept(REVIEWS)[0].raw


def test_the_same_object_twice_in_a_text_is_refused() -> None:
    """Nobody can tell which one was meant."""
    with pytest.raises(InvalidObject) as caught:
        accept(f"{REVIEWS}---\n{REVIEWS}", "f.yaml")
    assert caught.value.line == 14
    assert "line 1" in caught.value.suggestion


def test_a_text_is_accepted_as_a_whole_or_not_at_all() -> None:
    """The second document is wrong: the first one is not accepted either."""
    with pytest.raises(InvalidObject, match="weight -1 < 0") as caught:
        accept(f"{REVIEWS}---\n{REVIEWS.replace('name: reviews', 'name: other')}      weight: -1\n", "f.yaml")
    assert caught.value.line == 26


def conformance_files() -> list[object]:
    data = Path(__file__).parents[3] / "shared" / "conformance"
    found = [*sorted((data / "istio" / "samples").rglob("*.yaml")), *sorted((data / "gateway-api").rglob("*.yaml"))]
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason="no conformance data"))]
    return [pytest.param(file, id=str(file.relative_to(data))) for file in found]


@pytest.mark.parametrize("file", conformance_files())
def test_every_conformance_file_is_accepted(file: Path) -> None:
    """Istio's Bookinfo and the mesh routes of Gateway API, unmodified."""
    found = accept(file.read_text(), file.name)
    assert found
    assert all(one.lines[""] >= 1 and one.file == file.name for one in found)
