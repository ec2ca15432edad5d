"""What is wrong with providers that CUSTOM asks, told before a request is refused for it."""

from __future__ import annotations

import pytest

from meshlib_control.analyze import analyze
from meshlib_control.model import Severity
from tests.controlplane.test_analyze import told, world

GRPC = "{{name: {name}, envoyExtAuthzGrpc: {{service: {service}, port: {port}}}}}"
REVIEWS = "reviews.default.svc.cluster.local"


def provider(name: str = "opa", service: str = REVIEWS, port: int = 9080) -> str:
    return GRPC.format(name=name, service=service, port=port)


def mesh(*providers: str) -> str:
    return (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n"
        f"data:\n  mesh: |-\n    extensionProviders: [{', '.join(providers)}]\n"
    )


def custom(name: str, asked: str = "opa", more: str = "", *, namespace: str = "default") -> str:
    return (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\n"
        f"spec:\n  action: CUSTOM\n  provider: {{name: {asked}}}\n  rules: [{{}}]\n{more}"
    )


def selecting(**labels: str) -> str:
    return f"  selector: {{matchLabels: {{{', '.join(f'{name}: {value}' for name, value in labels.items())}}}}}\n"


def test_a_known_provider_of_the_mesh_is_fine() -> None:
    """The near miss of everything here."""
    assert told(custom("a"), custom("b"), mesh(provider())) == []


@pytest.mark.parametrize(
    ("given", "words", "advice"),
    [
        ([mesh(provider("opaa"))], "provider not found", "did you mean opaa?"),
        ([mesh()], "provider not found", "extensionProviders in the ConfigMap istio-system/istio"),
        ([], "provider not found", "extensionProviders in the ConfigMap istio-system/istio"),
        ([mesh("{name: opa, zipkin: {service: z, port: 1}}")], "is no authorizer", "envoyExtAuthzGrpc"),
    ],
)
def test_a_provider_that_is_not_there_is_an_error(given: list[str], words: str, advice: str) -> None:
    """IST0101, in the line of its name: what the rules match is refused."""
    (finding,) = analyze(world(custom("a"), *given))
    assert (finding.code, finding.severity, finding.field) == ("IST0101", Severity.ERROR, "spec.provider.name")
    assert (finding.file, finding.line) == ("0.yaml", 6)
    assert words in finding.message
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("wrong", "field", "advice"),
    [
        (provider(service="revews.default.svc.cluster.local"), "service", f"did you mean {REVIEWS}?"),
        (provider(service=f"other/{REVIEWS}"), "service", f"did you mean {REVIEWS}?"),
        (provider(service="nobody.example"), "service", "ServiceEntry"),
        (provider(port=1), "port", "known ports: 9080"),
    ],
)
def test_a_provider_whose_service_is_not_there_is_an_error(wrong: str, field: str, advice: str) -> None:
    """IST0101 of the mesh configuration; files alone say nothing of services."""
    texts = custom("a"), mesh(provider("sound"), wrong)
    (finding,) = analyze(world(*texts))
    assert (finding.code, finding.severity) == ("IST0101", Severity.ERROR)
    assert finding.field == f"data.mesh.extensionProviders[1].envoyExtAuthzGrpc.{field}"
    assert advice in finding.advice
    assert analyze(world(*texts, services=())) == []


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (custom("a"), custom("b", "other"), True),
        (custom("a", namespace="istio-system"), custom("b", "other", selecting(app="reviews")), True),
        (custom("a", more=selecting(app="reviews")), custom("b", "other", selecting(version="v1")), True),
        (custom("a"), custom("b", "other", "  targetRefs: [{kind: Service, name: reviews, group: ''}]\n"), True),
        (custom("a", more=selecting(app="reviews")), custom("b", "other", selecting(app="ratings")), False),
        (custom("a"), custom("b", "other", namespace="elsewhere"), False),
    ],
)
def test_several_providers_for_one_workload_are_an_error(first: str, second: str, clash: bool) -> None:
    """MSH0006 of each policy: nobody is asked, and what the rules match is refused."""
    found = told(first, second, mesh(provider(), provider("other")))
    codes = [(code, field) for code, _, field in found]
    assert codes == ([("MSH0006", "spec.provider.name")] * 2 if clash else [])


def test_files_alone_tell_of_several_providers() -> None:
    """As far as the policies themselves say who is meant: everybody, and some."""
    texts = custom("a"), custom("b", "other", selecting(app="reviews")), mesh(provider(), provider("other"))
    assert [one.code for one in analyze(world(*texts, services=()))] == ["MSH0006", "MSH0006"]
