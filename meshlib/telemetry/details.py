"""Envoy's words for how a request ended: response flags and their %RESPONSE_CODE_DETAILS%."""

from __future__ import annotations

from functools import lru_cache

VIA_UPSTREAM = "via_upstream"

_DETAILS = {
    "-": VIA_UPSTREAM,
    "UF": "upstream_reset_before_response_started{remote_connection_failure}",
    "UC": "upstream_reset_before_response_started{connection_termination}",
    "UPE": "upstream_reset_before_response_started{protocol_error}",
    "UT": "response_timeout",
    "UH": "no_healthy_upstream",
    "UO": "upstream_reset_before_response_started{overflow}",
    "NR": "route_not_found",
    "NC": "cluster_not_found",
    "FI": "fault_filter_abort",
    "DI": VIA_UPSTREAM,
    "DC": "downstream_remote_disconnect",
    "UAEX": "rbac_access_denied_matched_policy[none]",
    "RL": "request_rate_limited",
}


@lru_cache(maxsize=256)
def details(flags: str) -> str:
    """The detail that Envoy gives with a response flag; of several flags (`DI,FI`) the last one that says something."""
    known = [_DETAILS[flag] for flag in flags.split(",") if flag in _DETAILS]
    return next((detail for detail in reversed(known) if detail != VIA_UPSTREAM), VIA_UPSTREAM)
