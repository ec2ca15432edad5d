"""apply, get and delete, as a user of kubectl types them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml

from meshlib_control.kinds import KINDS
from tests.support.control import REVIEWS_V1, SUBSETS, TYPO

pytestmark = pytest.mark.usefixtures("plane")


@pytest.fixture
def reviews(tmp_path: Path) -> str:
    (tmp_path / "reviews.yaml").write_text(f"{REVIEWS_V1}---\n{SUBSETS}")
    return "reviews.yaml"


def test_apply_tells_each_object(meshlib, reviews):
    """kubectl's lines, on stdout."""
    result = meshlib("apply", "-f", reviews)
    assert result.code == 0
    assert result.out.splitlines() == [
        "virtualservice.networking.istio.io/reviews created",
        "destinationrule.networking.istio.io/reviews created",
    ]
    assert meshlib("apply", "-f", reviews).out.count("unchanged") == 2


def test_apply_of_a_wrong_file_names_line_field_and_suggestion_and_changes_nothing(meshlib, tmp_path):
    """Exit code 65; the last line is the next thing to do."""
    (tmp_path / "wrong.yaml").write_text(f"{SUBSETS}---\n{TYPO}")
    result = meshlib("apply", "-f", "wrong.yaml")
    assert result.code == 65
    assert "Error: wrong.yaml:23: spec.http[0].route[0].destination.subsett" in result.err
    assert "subset" in result.err.splitlines()[-1]
    assert result.err.splitlines()[-1].startswith("Try: ")
    assert meshlib("get", "all", "-A").err == "No objects found.\n"


def test_several_files_are_one_change(meshlib, tmp_path, reviews):
    """One wrong file stops all of them."""
    (tmp_path / "wrong.yaml").write_text(TYPO)
    assert meshlib("apply", "-f", reviews, "-f", "wrong.yaml").code == 65
    assert meshlib("get", "all").err == "No objects found in namespace default.\n"


def test_a_folder_means_its_yaml_files(meshlib, tmp_path):
    """Sorted by name, other files left out."""
    folder = tmp_path / "mesh"
    folder.mkdir()
    (folder / "b.yaml").write_text(REVIEWS_V1)
    (folder / "a.yml").write_text(SUBSETS)
    (folder / "notes.txt").write_text("no yaml: [")
    assert [line.split(".")[0] for line in meshlib("apply", "-f", "mesh").out.splitlines()] == [
        "destinationrule",
        "virtualservice",
    ]


def test_every_kind_that_policies_are_made_of_has_a_name(meshlib, tmp_path):
    """What can be applied and means something can be shown and taken back, the mesh's configuration, too."""
    known = [kind.name for kind in KINDS.values() if kind.spec] + ["ConfigMap", "HTTPRoute", "GRPCRoute", "RoleBinding"]
    for kind in known:
        assert meshlib("get", kind).code == 0, kind
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata: {mesh: ''}\n"
    (tmp_path / "mesh.yaml").write_text(text)
    meshlib("apply", "-f", "mesh.yaml")
    assert "istio" in meshlib("get", "cm", "-n", "istio-system").out
    assert "deleted" in meshlib("delete", "cm", "istio", "-n", "istio-system").out


def test_a_dash_means_standard_input(meshlib, monkeypatch):
    """For pipes."""
    monkeypatch.setattr("sys.stdin", io.StringIO(REVIEWS_V1))
    assert meshlib("apply", "-f", "-").out == "virtualservice.networking.istio.io/reviews created\n"


def test_a_dry_run_says_so_and_changes_nothing(meshlib, reviews):
    """The same lines with a mark."""
    assert "reviews created (dry run)" in meshlib("apply", "-f", reviews, "--dry-run").out
    assert meshlib("get", "vs").out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("apply",), 64, "which files?"),
        (("apply", "-f", "absent.yaml"), 65, "cannot read absent.yaml"),
        (("apply", "-f", "."), 65, "holds no .yaml"),
        (("apply", "-f", "empty.yaml"), 65, "no objects in empty.yaml"),
        (("apply", "-f", "binary.yaml"), 65, "not UTF-8"),
        (("apply", "--nonsense"), 64, "--nonsense"),
        (("get",), 64, "KIND"),
        (("get", "vss"), 64, "there is no kind 'vss'"),
        (("get", "vs/reviews", "dr"), 64, "cannot be mixed"),
        (("get", "vs", "absent"), 1, "not found in namespace default: absent"),
        (("get", "vs", "-o", "xml"), 64, "xml"),
        (("delete",), 64, "delete what?"),
        (("delete", "vs"), 64, "a kind and names"),
        (("delete", "all", "reviews"), 64, "a kind and names"),
        (("delete", "vs", "absent"), 1, "there is no VirtualService default/absent"),
        (("delete", "vs", "a", "-f", "b"), 64, "cannot be mixed"),
    ],
)
def test_a_wrong_input_has_its_exit_code_and_ends_with_advice(meshlib, tmp_path, arguments, code, words):
    """Every error ends with the next thing to do, and nothing is on stdout."""
    (tmp_path / "other").mkdir()
    for name, content in (("empty.yaml", b""), ("binary.yaml", b"\xff\xfe")):
        (tmp_path / "other" / name).write_bytes(content)
        if "-f" in arguments and arguments[-1] == name:
            arguments = (*arguments[:-1], f"other/{name}")
    result = meshlib(*arguments)
    assert (result.code, result.out) == (code, "")
    assert words.replace("empty.yaml", "other/empty.yaml") in result.err
    assert result.err.splitlines()[-1].startswith("Try: ")


def test_get_shows_names_hosts_status_and_age(meshlib, reviews):
    """Aligned columns, one line per object in a pipe."""
    meshlib("apply", "-f", reviews)
    header, line = meshlib("get", "vs").out.splitlines()
    assert header.split() == ["NAME", "FOR", "STATUS", "AGE"]
    assert line.split()[:2] == ["reviews", "reviews"]
    assert header.index("FOR") == line.index("reviews", 3)


def test_get_knows_kubectls_ways_to_name_things(meshlib, reviews):
    """Kind, plural, short name, list, kind/name, all, other namespaces."""
    meshlib("apply", "-f", reviews, "-n", "shop")
    meshlib("apply", "-f", reviews)
    for words in (("VirtualService",), ("virtualservices",), ("vs", "reviews"), ("vs/reviews",), ("vs.networking.istio.io",)):
        assert len(meshlib("get", *words).out.splitlines()) == 2
    assert len(meshlib("get", "vs,dr").out.splitlines()) == 3
    assert len(meshlib("get", "all", "-A").out.splitlines()) == 5
    assert "shop" in meshlib("get", "vs", "-A").out
    assert len(meshlib("get", "vs", "-n", "shop").out.splitlines()) == 2


def test_get_as_yaml_is_what_apply_takes_again(meshlib, monkeypatch, reviews):
    """With metadata and status added, which apply passes over."""
    meshlib("apply", "-f", reviews)
    text = meshlib("get", "vs", "reviews", "-o", "yaml").out
    data = yaml.safe_load(text)
    assert (data["kind"], data["spec"]["hosts"]) == ("VirtualService", ["reviews"])
    assert {entry["type"] for entry in data["status"]["conditions"]} == {"Accepted", "Effective", "Healthy"}
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert meshlib("apply", "-f", "-").code == 0


def test_get_as_json_is_a_list_with_an_api_version(meshlib, reviews):
    """Also with one object, unless its name was given: scripts need not guess."""
    meshlib("apply", "-f", reviews)
    many = json.loads(meshlib("get", "vs", "-o", "json").out)
    one = json.loads(meshlib("get", "vs", "reviews", "-o", "json").out)
    assert (many["apiVersion"], many["kind"], len(many["items"])) == ("v1", "List", 1)
    assert one == many["items"][0]


def test_what_is_not_effective_yet_is_said_by_apply_and_get(meshlib, tmp_path):
    """A warning on stderr with file and line, and the status of the object."""
    (tmp_path / "mirror.yaml").write_text(REVIEWS_V1.replace("  - route:", "  - mirror: {host: ratings}\n    route:"))
    applied = meshlib("apply", "-f", "mirror.yaml")
    assert applied.code == 0
    assert "Warning [MSH0001] (VirtualService default/reviews mirror.yaml:9)" in applied.err
    (tmp_path / "subsets.yaml").write_text(SUBSETS)
    meshlib("apply", "-f", "subsets.yaml")


def test_delete_by_name_and_by_file(meshlib, reviews):
    """Each object once, with kubectl's line."""
    meshlib("apply", "-f", reviews)
    assert meshlib("delete", "vs", "reviews").out == "virtualservice.networking.istio.io/reviews deleted\n"
    meshlib("apply", "-f", reviews)
    assert meshlib("delete", "-f", reviews).out.count("deleted") == 2
    assert meshlib("get", "all").out == ""


def test_apply_as_json_has_a_stable_shape(meshlib, reviews):
    """apiVersion promises it."""
    data = json.loads(meshlib("apply", "-f", reviews, "-o", "json").out)
    assert (data["apiVersion"], data["kind"]) == ("cli.meshlib.dev/v1", "ApplyResult")
    assert data["changes"][0] == {
        "resource": "virtualservice.networking.istio.io/reviews",
        "kind": "VirtualService",
        "namespace": "default",
        "name": "reviews",
        "action": "created",
    }
