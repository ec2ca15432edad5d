"""Trust domains and their aliases: while a mesh changes its name, peers of both names are the same.

Istio: pilot/pkg/security/trustdomain. In policies `cluster.local` stands for the mesh's own trust domain, whatever its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from meshlib_control.model import World

_OWN: Final = "cluster.local"


def trust_domains(world: World) -> tuple[str, ...]:
    """The mesh's trust domain and its aliases."""
    return (world.trust_domain, *world.mesh.trust_domain_aliases)


def in_all_domains(principals: Iterable[str], domains: tuple[str, ...]) -> tuple[str, ...]:
    """Principals of one of the domains, as principals of each; the others as they are."""
    return tuple(one for principal in principals for one in dict.fromkeys(_in_all(principal, domains)))


def _in_all(principal: str, domains: tuple[str, ...]) -> Iterator[str]:
    domain, *rest = principal.split("/")
    if len(rest) != 4 or domain == "*" or not (domain == _OWN or any(_meet(domain, known) for known in domains)):
        yield principal
        return
    for known in domains:
        yield principal if _ends(known, domain) else "/".join((known, *rest))


def expanded(values: Iterable[str], domains: tuple[str, ...]) -> tuple[str, ...]:
    """One of the domains stands for all of them."""
    return tuple(dict.fromkeys(one for value in values for one in (domains if value in domains else (value,))))


def _meet(one: str, other: str) -> bool:
    return one == other or other == "*" or any(_begins(*pair) or _ends(*pair) for pair in ((one, other), (other, one)))


def _begins(value: str, pattern: str) -> bool:
    return pattern.endswith("*") and value.startswith(pattern[:-1])


def _ends(value: str, pattern: str) -> bool:
    return pattern.startswith("*") and value.endswith(pattern[1:])
