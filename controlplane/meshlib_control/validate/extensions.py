"""WasmPlugin, TrafficExtension, ProxyConfig."""

from __future__ import annotations

from collections.abc import Iterator

from meshlib_control.kinds import ProxyConfig, TrafficExtension, WasmPlugin
from meshlib_control.kinds.extensions import VmConfig
from meshlib_control.mistakes import Mistake, item
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats
from meshlib_control.validate.common import selector, target_references


def check_wasm(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a WasmPlugin."""
    spec: WasmPlugin = found.spec
    yield from target_references(spec.selector, spec.target_ref, spec.target_refs, found.raw["spec"])
    yield from _url(spec.url, "spec.url")
    yield from _environment(spec.vm_config, found.raw["spec"], "spec")


def check_traffic_extension(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a TrafficExtension."""
    spec: TrafficExtension = found.spec
    given = found.raw["spec"]
    yield from target_references(spec.selector, None, spec.target_refs, given)
    if spec.wasm is None and spec.lua is None:
        yield Mistake("spec", "exactly one of wasm or lua must be set")
    if spec.wasm is not None:
        yield from _url(spec.wasm.url, "spec.wasm.url")
        yield from _environment(spec.wasm.vm_config, given["wasm"], "spec.wasm")


def check_proxy_config(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a ProxyConfig."""
    spec: ProxyConfig = found.spec
    yield from selector(spec.selector)


def _url(url: str, path: str) -> Iterator[Mistake]:
    scheme = formats.url_scheme(url)
    unclear = "#" in url and not scheme  # a fragment before any host: nothing that could be fetched
    if scheme not in {"", "http", "https", "oci", "file"} or unclear:
        yield Mistake(path, f'Invalid value: "{url}": url must have schema one of [http, https, file, oci]')


def _environment(config: VmConfig | None, given: object, path: str) -> Iterator[Mistake]:
    if config is None:
        return
    assert isinstance(given, dict)
    for index, variable in enumerate(config.env):
        if variable.value_from == "HOST" and "value" in given["vmConfig"]["env"][index]:
            place = f"{item(f'{path}.vmConfig.env', index)}.value"
            yield Mistake(place, "value may only be set when valueFrom is INLINE")
