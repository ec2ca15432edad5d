"""RBAC filters from protobuf's JSON, as an inbound port holds them."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from meshlib.config.decode_rbac import rbac
from meshlib.config.messages import _pool, message
from meshlib.config.policy import Rbac

Json = dict[str, Any]

ANY: Json = {"any": True}


def rbac_filters(*written: Json) -> tuple[Rbac, ...]:
    """The filters, decoded as those of a listener are."""
    kind = message("envoy.extensions.filters.http.rbac.v3.RBAC")
    bodies = (json_format.ParseDict(one, kind(), descriptor_pool=_pool) for one in written)
    return tuple(rbac(body, "rbac") for body in bodies)


def rules(action: str, **policies: tuple[Json, Json]) -> Json:
    """RBAC rules of permission and principal by policy name."""
    found = {name: {"permissions": [permission], "principals": [who]} for name, (permission, who) in policies.items()}
    return {"action": action, "policies": found}
