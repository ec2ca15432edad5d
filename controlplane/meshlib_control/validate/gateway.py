"""Gateway, and the TLS settings that Sidecars share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshlib_control.kinds import Gateway
from meshlib_control.kinds.gateway import GatewayPort, Server, ServerTls, TlsCertificate
from meshlib_control.mistakes import Mistake, item
from meshlib_control.model import MeshObject
from meshlib_control.validate import formats
from meshlib_control.validate.common import told


def check(found: MeshObject) -> Iterator[Mistake]:
    """Everything wrong with a Gateway."""
    spec: Gateway = found.spec
    yield from told("metadata.name", formats.label(found.key.name))
    if not spec.servers:
        yield Mistake("spec.servers", "gateway must have at least one server")
    seen: set[str] = set()
    for index, server in enumerate(spec.servers):
        path = item("spec.servers", index)
        yield from _server(server, path)
        if server.port.name in seen:
            yield Mistake(f"{path}.port.name", f"port names in servers must be unique: duplicate name {server.port.name}")
        seen.add(server.port.name)


def _server(server: Server, path: str) -> Iterator[Mistake]:
    if not server.hosts:
        yield Mistake(f"{path}.hosts", "server config must contain at least one host")
    for index, host in enumerate(server.hosts):
        yield from told(item(f"{path}.hosts", index), _scoped_host(host))
    yield from _port(server.port, server.bind, f"{path}.port")
    yield from _bind(server, path)
    yield from server_tls(server.tls, f"{path}.tls")
    yield from _tls_fits(server, path)


def _scoped_host(host: str) -> str:
    namespace, slash, name = host.rpartition("/")
    if slash and namespace not in {"*", "."} and formats.label(namespace):
        return f'invalid namespace value "{namespace}" in gateway'
    return "" if formats.is_ip(name) else formats.qualified_host(name)


def _port(port: GatewayPort, bind: str, path: str) -> Iterator[Mistake]:
    problem = "" if port.protocol else "protocol must be set"
    yield from told(f"{path}.protocol", problem or formats.protocol(port.protocol))
    if port.number or not bind.startswith("unix://"):
        yield from told(f"{path}.number", formats.port(port.number))
    if port.target_port:
        yield Mistake(f"{path}.targetPort", "targetPort has no impact on Gateways")
    if not port.name:
        yield Mistake(f"{path}.name", "port name must be set")


def _bind(server: Server, path: str) -> Iterator[Mistake]:
    if server.bind.startswith("unix://"):
        yield from told(f"{path}.bind", formats.unix_address(server.bind.removeprefix("unix://")))
        if server.port.number:
            yield Mistake(f"{path}.port.number", "port number must be 0 for unix domain socket")
    elif server.bind:
        yield from told(f"{path}.bind", formats.ip(server.bind))


def _tls_fits(server: Server, path: str) -> Iterator[Mistake]:
    encrypted = formats.is_tls(server.port.protocol)
    if encrypted and server.tls is None:
        yield Mistake(f"{path}.tls", "server must have TLS settings for HTTPS/TLS protocols")
    if encrypted or server.tls is None:
        return
    if not formats.is_http(server.port.protocol):
        yield Mistake(f"{path}.tls", "server cannot have TLS settings for non HTTPS/TLS ports")
    elif server.tls.mode not in {"PASSTHROUGH", "AUTO_PASSTHROUGH"} or server.tls.server_certificate or server.tls.private_key:
        yield Mistake(f"{path}.tls", "server cannot have TLS settings for plain text HTTP ports", "use protocol: HTTPS")


def server_tls(tls: ServerTls | None, path: str) -> Iterator[Mistake]:
    """TLS settings: certificates come from one place, and are there if the mode needs them."""
    if tls is None:
        return
    sources = {
        "serverCertificate": tls.server_certificate and tls.private_key,
        "credentialName": tls.credential_name,
        "credentialNames": tls.credential_names,
        "tlsCertificates": tls.tls_certificates,
    }
    given = [name for name, value in sources.items() if value]
    if tls.mode == "ISTIO_MUTUAL":
        for name in given or (["caCertificates"] if tls.ca_certificates else []):
            yield Mistake(f"{path}.{name}", f"ISTIO_MUTUAL TLS cannot have associated {name}")
        return
    if len(given) > 1:
        yield Mistake(f"{path}.{given[1]}", f"only one of {', '.join(sources)} can be set")
    if tls.mode in {"SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL"} and not (tls.credential_name or tls.credential_names):
        yield from _certificates(tls, path)
    if tls.ca_crl and (tls.credential_name or tls.mode == "SIMPLE"):
        yield Mistake(f"{path}.caCrl", "not supported with SIMPLE TLS or credentialName")


def _certificates(tls: ServerTls, path: str) -> Iterator[Mistake]:
    if tls.mode != "SIMPLE" and not tls.ca_certificates:
        yield Mistake(f"{path}.caCertificates", "MUTUAL TLS requires a client CA bundle")
    own = TlsCertificate(server_certificate=tls.server_certificate, private_key=tls.private_key)
    for certificate in tls.tls_certificates or (own,):
        needed: Mapping[str, Any] = {
            "serverCertificate": certificate.server_certificate,
            "privateKey": certificate.private_key,
        }
        for name, value in needed.items():
            if not value:
                yield Mistake(f"{path}.{name}", f"{tls.mode} TLS requires {name} or credentialName")
