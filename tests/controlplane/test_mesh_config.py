"""The mesh configuration: Istio's ConfigMap, its mistakes, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from meshlib_control import mesh_config, validate
from meshlib_control.kinds import MeshConfig
from meshlib_control.mistakes import InvalidObject
from meshlib_control.model import MeshObject
from tests.support.worlds import read, world


def config_map(mesh: str, name: str = "istio", namespace: str = "istio-system") -> str:
    rows = "\n".join(f"    {row}" for row in mesh.splitlines())
    head = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
    return f"{head}data:\n  meshNetworks: 'networks: {{}}'\n  mesh: |-\n{rows}\n---\n"


def found(mesh: str) -> MeshObject:
    return read(config_map(mesh))[mesh_config.KEY]


def test_it_is_part_of_every_world() -> None:
    """What Istio installs by default is read without a word."""
    text = """\
accessLogFile: ""
defaultConfig: {discoveryAddress: "istiod.istio-system.svc:15012"}
enablePrometheusMerge: true
rootNamespace: istio-system
trustDomain: cluster.local
trustDomainAliases: [old.example, older.example]
pathNormalization:
  normalization: MERGE_SLASHES
"""
    mesh = world(config_map(text)).mesh
    assert mesh.trust_domain_aliases == ("old.example", "older.example")
    assert mesh.path_normalization.normalization == "MERGE_SLASHES"


@pytest.mark.parametrize(
    "text", [config_map("trustDomainAliases: [a]", "other"), config_map("trustDomainAliases: [a]", "istio", "a")]
)
def test_other_config_maps_say_nothing(text: str) -> None:
    """By name and by namespace."""
    assert world(text).mesh == MeshConfig()


def test_it_changes_with_its_object() -> None:
    """A world is made of the objects of its moment."""
    assert world(config_map("trustDomainAliases: [a]")).mesh != world(config_map("trustDomainAliases: [b]")).mesh
    assert world(config_map("")).mesh == MeshConfig()


@pytest.mark.parametrize(
    ("mesh", "field", "problem"),
    [
        ("pathNormalisation: {}", "data.mesh.pathNormalisation", "unknown field"),
        ("pathNormalization: {normalization: ALL}", "data.mesh.pathNormalization.normalization", "ALL"),
        ("trustDomainAliases: old", "data.mesh.trustDomainAliases", "array"),
        ("trustDomainAliases: ['']", "data.mesh.trustDomainAliases[0]", ""),
        ("- a", "data.mesh", "keys and values"),
        ("a: [", "data.mesh", "not valid YAML"),
    ],
)
def test_mistakes_are_refused_with_their_place(mesh: str, field: str, problem: str) -> None:
    """The line is where the text begins."""
    one = found(mesh)
    (mistake,) = validate.mistakes(one)
    assert mistake.field == field
    assert problem in mistake.problem
    with pytest.raises(InvalidObject, match=r"test\.yaml:6"):
        validate.check(one)


def test_numbers_may_be_texts() -> None:
    """As in Istio's task about external authorization: protobuf reads Istio's mesh configuration. A word is no number."""
    text = "extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: opa.foo.svc.cluster.local, port: PORT}}]"
    assert world(config_map(text.replace("PORT", '"9000"'))).mesh == world(config_map(text.replace("PORT", "9000"))).mesh
    (mistake,) = validate.mistakes(found(text.replace("PORT", '"nine"')))
    assert mistake.field == "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.port"
    with pytest.raises(InvalidObject):
        validate.check(found(text.replace("PORT", '"99999"')))


def test_one_that_was_kept_with_a_mistake_counts_as_none() -> None:
    """The defaults are the strict ones; nothing is half obeyed."""
    one = replace(found("trustDomainAliases: [old]\nunknown: 1"), created=1.0)
    assert mesh_config.mesh_config(MappingProxyType({one.key: one})) == MeshConfig()
