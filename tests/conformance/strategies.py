"""What can be drawn: Istio objects over all that the engine honours, and requests that nearly or just fit them.

Values come from short lists that conditions and requests share, so that conditions often hold; the lists are full of what
implementations disagree about.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.conformance.cases import ALIVE, DEAD, OUR_LABELS, Asked, Case, Json, document
from tests.conformance.echo import HANG

Draw = st.DrawFn


def _full(name: str) -> str:
    return f"{name}.default.svc.cluster.local"


LONG = "x" * 300
SHORT, WHOLE = "0.3s", "10s"
"""Time-outs that pass while the upstream hangs, and those that never do."""

PATHS = [
    *(
        "/",
        "/a",
        "/A",
        "/a/",
        "/a/b",
        "/ab",
        "/a/1",
        "/b",
        "//",
        "//a",
        "/a//b",
        "/%61",
        "/a%2Fb",
        "/a%2fb",
        "/a%20b",
        "/%C3%A9",
    ),
    *("/a;v=1", "/a+b", "/a/../b", "/a/./b", "/a/..", "/.", "/..", "/a%2e%2e/b", "/a/%2E%2E/b", "/a\\b", "/%", "/%zz", "/%00"),
    *("/a/%2e%2e%2fb", "/a..", "/a/...", "/~a", "/%7Ea", "/a*", "/a'b", "/a|b", f"/{LONG}", "/a,b", "/a=b", "/a&b", "/a:b"),
]
QUERIES = [
    *("", "?", "?k", "?k=", "?=1", "?k=1", "?k=2&k=1", "?k=1&k=2", "?&k=1", "?j=1&k=12", "?k=%31", "?K=1", "?k=a=b", "??k=1"),
    *(
        "?k=1?",
        "?k=1&&j",
        "?k=+",
        "?k=%20",
        "?k=a/../b",
        "?k=1;j=2",
        "?%6B=1",
        "?k=%C3%A9",
        "?j",
        "?k&j=1",
        f"?k={LONG}",
        "?k=a,b",
    ),
]
FRAGMENTS = ["", "", "", "", "", "", "", "", "", "#f"]
TEXTS = ["", "1", "12", "2", "a", "A", "ab", "b", "1,a", "a, b", "a,b", "%31", "%20", "é", "É", "€", "a=b", "*", "a b", LONG]
REGEXES = [
    *(
        ".*",
        ".+",
        "a",
        "a.*",
        "[a1/]+",
        "a|1",
        "(?i)a",
        "/a.*",
        "/a/[^/]+",
        "/.*b",
        ".",
        "..",
        "é",
        "(?i)É",
        "[^a]*",
        r"\d+",
        "^a$",
    ),
    *("(a)(b)?", "a{1,3}", r"[\w,= ]*", "/", "//", "/%.*", r"/a/\.\./b", "1|12"),
]
HEADERS = ["x-a", "x-b", "X-A", "end-user", "cookie", "user-agent", "content-type", "x-c.d_e"]
PSEUDO = [":method", ":authority", ":path", ":scheme"]
METHODS = ["GET", "GET", "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "PURGE"]
SUBSETS = ["v1", "v2", "v3"]
WEIGHTS = [0, 1, 1, 10, 50, 99, 100]
PERCENTS = [0, 0.0001, 0.01, 1, 50, 50, 99.9999, 100, 100, 100]

ABORTS = [
    *({"httpStatus": status} for status in (418, 200, 503, 599)),
    *({"grpcStatus": name} for name in ("UNAVAILABLE", "OK", "DEADLINE_EXCEEDED")),
]
HTTP_CONDITIONS = [
    *("5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited", "retriable-4xx"),
    *("refused-stream", "retriable-status-codes", "retriable-headers"),
]
GRPC_CONDITIONS = ["cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable"]
STATUSES = ["200", "200", "204", "304", "400", "404", "409", "429", "500", "502", "503", "503", "504", "599"]
FAILING = [
    *("503", "502", "500", "504", "409", "reset", "close", "hang", "503+grpc-status: 14", "200+grpc-status: 14"),
    *("429+x-envoy-ratelimited: true", "404+x-again: 1", "200"),
]
ANSWERS = [
    *("+grpc-status: 14", "+grpc-status: 1", "+grpc-status: 0", "+x-envoy-ratelimited: true", "+x-again: 1", "+x-empty: "),
    *("+set-cookie: a=1+set-cookie: b=2", "+X-Mixed: Case", "+x-two: 1+x-two: 2", "~chunked", "~eof", "+connection: close"),
    *(
        "+server: upstream",
        "+date: yesterday",
        "+content-type: text/plain",
        "+x-envoy-attempt-count: 9",
        "+keep-alive: timeout=5",
    ),
    *("+x-envoy-upstream-service-time: 7", "+via: 1.1 x", "+x-latin: \xe9", "+location: http://x/"),
]
ORDERS: dict[str, list[str]] = {
    "x-envoy-retry-on": [
        "5xx",
        "retriable-4xx,bogus",
        "gateway-error",
        "retriable-status-codes",
        "retriable-headers",
        "reset",
        "",
    ],
    "x-envoy-retry-grpc-on": ["unavailable,cancelled", "5xx", ""],
    "x-envoy-max-retries": ["0", "1", "2", "x", ""],
    "x-envoy-retriable-status-codes": ["503", "404, 409", "x", ""],
    "x-envoy-retriable-header-names": ["x-again", "X-Other,X-Again", ""],
    "x-envoy-upstream-rq-timeout-ms": ["300", "10000", "x", "0", ""],
    "x-envoy-upstream-rq-per-try-timeout-ms": ["300", "x", "0", ""],
    "x-envoy-expected-rq-timeout-ms": ["1"],
    "x-envoy-attempt-count": ["7"],
}
EXTRAS: dict[str, list[str]] = {
    "te": ["trailers", "gzip"],
    "connection": [
        "close",
        "keep-alive",
        "x-b",
        "X-B, x-a,,close",
        "x-forwarded-for",
        "cookie",
        "upgrade",
        "te",
        ",".join("abcdefghij"),
    ],
    "x-forwarded-proto": ["https", "http", "HTTPS", "ftp"],
    "x-forwarded-for": ["10.0.0.1", "1.2.3.4, 10.0.0.1"],
    "x-request-id": ["abc"],
    "x-envoy-original-path": ["/x"],
    "x-envoy-internal": ["true"],
    "x-envoy-decorator-operation": ["x"],
    "forwarded": ["for=1.2.3.4"],
    "x-b": [" padded ", "tab\tin"],
    "content-type": ["application/grpc", "application/grpc+proto", "text/plain"],
    "proxy-connection": ["keep-alive"],
    "keep-alive": ["timeout=5"],
    "accept": ["*/*"],
}


def one(draw: Draw, values: list[Any]) -> Any:
    """One of these."""
    return draw(st.sampled_from(values))


def chance(draw: Draw, percent: int) -> bool:
    """Whether something rare happens; what is drawn first is what shrinking prefers: it does not."""
    return draw(st.integers(0, 99)) >= 100 - percent


def some(draw: Draw, values: list[Any], most: int) -> list[Any]:
    """Up to so many different ones."""
    return draw(st.lists(st.sampled_from(values), max_size=most, unique=True))


@st.composite
def cases(draw: Draw, requests: int = 14) -> Case:
    """Objects and requests."""
    second = chance(draw, 25)
    services = ["@a", "@b"] if second else ["@a"]
    objects: list[Json] = []
    ports: dict[str, list[int]] = {}
    subsets: dict[str, list[str]] = {}
    for name in services:
        ports[name] = one(draw, [[9080], [9080], [80], [9080, 80], [9080, 9081]])
        objects.append(_service_entry(draw, name, ports[name]))
        subsets[name] = some(draw, SUBSETS, 3) + (["none"] if chance(draw, 8) else [])
        if subsets[name] or chance(draw, 20):
            objects.append(_destination_rule(draw, name, ports[name], subsets[name]))
    routes: list[Json] = []
    if chance(draw, 95):
        size = draw(st.integers(1, 4))
        routes = [_route(draw, number, size, services, ports, subsets) for number in range(size)]
        objects.append(_virtual_service(draw, routes))
    asked = tuple(_request(draw, one(draw, services), ports, routes) for _ in range(requests))
    return Case(tuple(objects), asked)


def _service_entry(draw: Draw, name: str, ports: list[int]) -> Json:
    dead = chance(draw, 6)
    size = one(draw, [1, 2] if dead else [3, 3, 2, 4, 1]) if not chance(draw, 4) else 0
    places = draw(st.lists(st.integers(0, (DEAD if dead else ALIVE) - 1), min_size=size, max_size=size, unique=True))
    # All versions have an endpoint mostly: what has none ends early and says little.
    endpoints = [
        _endpoint(draw, f"{'!' if dead else '#'}{place}", ports, SUBSETS[number % 3]) for number, place in enumerate(places)
    ]
    return document(
        "ServiceEntry",
        name.replace("@", "se-@"),
        {
            "hosts": [_full(name)],
            "location": one(draw, ["MESH_INTERNAL", "MESH_EXTERNAL"]),
            "resolution": "STATIC",
            "ports": [{"number": port, "name": f"http-{port}", "protocol": "HTTP"} for port in ports],
            "endpoints": endpoints,
        },
    )


def _endpoint(draw: Draw, port: str, ports: list[int], version: str) -> Json:
    found: Json = {
        "address": "127.0.0.1",
        "ports": {f"http-{number}": port for number in ports},
        "labels": {"app": "x", "version": one(draw, SUBSETS) if chance(draw, 25) else version},
    }
    if chance(draw, 20):
        found["weight"] = one(draw, [1, 2, 5])
    if chance(draw, 10):
        found["locality"] = one(draw, ["r1/z1", "r2/z2/s"])
    return found


def _destination_rule(draw: Draw, name: str, ports: list[int], subsets: list[str]) -> Json:
    spec: Json = {"host": one(draw, [name, _full(name)])}
    if chance(draw, 50):
        spec["trafficPolicy"] = _policy(draw, ports)
    spec["subsets"] = [_subset(draw, subset, ports) for subset in subsets]
    return document("DestinationRule", name.replace("@", "dr-@"), spec)


def _policy(draw: Draw, ports: list[int] | None) -> Json:
    policy: Json = {"loadBalancer": {"simple": one(draw, ["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM", "UNSPECIFIED"])}}
    if chance(draw, 20):
        policy["connectionPool"] = {"tcp": {"connectTimeout": one(draw, ["2s", "10s"])}}
    if chance(draw, 20):
        policy |= _protection(draw)
    if ports and chance(draw, 15):
        policy["portLevelSettings"] = [{"port": {"number": one(draw, ports)}, **_policy(draw, None)}]
    return policy


def _protection(draw: Draw) -> Json:
    """Limits and ejections that are in force and never bite: what they do has a test of its own (test_protection_envoy)."""
    http = {
        "http1MaxPendingRequests": 1000,
        "http2MaxRequests": one(draw, [0, 1000]),
        "maxRequestsPerConnection": one(draw, [0, 1, 2]),
        "maxRetries": one(draw, [0, 1000]),
        "idleTimeout": one(draw, ["1s", "60s"]),
    }
    pool = {"tcp": {"maxConnections": 1000, "connectTimeout": "10s"}, "http": http}
    # Of up to five endpoints nobody is left out: one would be more than this share.
    outliers = {"consecutive5xxErrors": one(draw, [0, 1]), "maxEjectionPercent": one(draw, [0, 19]), "interval": "1s"}
    return {"connectionPool": pool, **({"outlierDetection": outliers} if chance(draw, 50) else {})}


def _subset(draw: Draw, name: str, ports: list[int]) -> Json:
    found: Json = {"name": name, "labels": {"version": name}}
    if chance(draw, 20):
        found["trafficPolicy"] = _policy(draw, ports)
    return found


def _virtual_service(draw: Draw, routes: list[Json]) -> Json:
    spec: Json = {"hosts": [one(draw, ["@a", _full("@a")])], "http": routes}
    if chance(draw, 8):
        spec["exportTo"] = one(draw, [["."], ["*"], ["elsewhere"]])
    if chance(draw, 5):
        spec["gateways"] = one(draw, [["mesh"], ["mesh", "gate"], ["gate"]])
    return document("VirtualService", "vs-@a", spec)


def _route(
    draw: Draw, number: int, size: int, services: list[str], ports: dict[str, list[int]], subsets: dict[str, list[str]]
) -> Json:
    route: Json = {"name": f"r{number}"}
    blocks = one(draw, [0, 0, 0, 1, 1, 2] if number == size - 1 else [1, 1, 1, 1, 2, 3, 0] if chance(draw, 15) else [1, 1, 2])
    matches = [_match(draw, f"m{block}", ports["@a"]) for block in range(blocks)]
    if matches:
        route["match"] = matches
    targets = [_target(draw, services, ports, subsets) for _ in range(one(draw, [1, 1, 1, 2, 3]))]
    if len(targets) > 1 and not sum(target["weight"] for target in targets):
        targets[0]["weight"] = 1
    route["route"] = targets
    if chance(draw, 30):
        route["timeout"] = one(draw, [SHORT, SHORT, WHOLE])
    if chance(draw, 65):
        route["retries"] = _retries(draw)
    if chance(draw, 15):
        route["fault"] = _fault(draw)
    return route


def _target(draw: Draw, services: list[str], ports: dict[str, list[int]], subsets: dict[str, list[str]]) -> Json:
    name = "nosuch" if chance(draw, 2) else one(draw, services)
    destination: Json = {"host": one(draw, [name, name, _full(name)])}
    if subsets.get(name) and chance(draw, 60):
        destination["subset"] = one(draw, subsets[name])
    if chance(draw, 3):
        destination["subset"] = "absent"
    if name not in ports or len(ports[name]) > 1 or chance(draw, 25):
        destination["port"] = {"number": 4444 if chance(draw, 5) else one(draw, ports.get(name, [9080]))}
    return {"destination": destination, "weight": one(draw, WEIGHTS)}


def _match(draw: Draw, name: str, ports: list[int]) -> Json:
    """A block of conditions: each kind with its own chance."""
    match: Json = {"name": name, **_selectors(draw, ports)}
    if chance(draw, 65):
        match["uri"] = _text(draw, PATHS, presence=False, empty_prefix=True)
        if chance(draw, 25):
            match["ignoreUriCase"] = True
    for field, percent, values in _PSEUDO_CONDITIONS:
        if chance(draw, percent):
            match[field] = _text(draw, values, presence=True)
    for field, percent, names in _NAMED_CONDITIONS:
        if chance(draw, percent):
            star = field != "queryParams"
            match[field] = {key: _text(draw, TEXTS, presence=True, star=star) for key in some(draw, names, 2)}
    return match


def _selectors(draw: Draw, ports: list[int]) -> Json:
    """Conditions on the client, which decide whether it gets the route at all."""
    choices: list[tuple[str, int, list[Any]]] = [
        ("port", 8, [*ports, 9999]),
        ("sourceLabels", 8, [OUR_LABELS, {"app": "referee"}, {"app": "other"}]),
        ("sourceNamespace", 5, ["default", "elsewhere"]),
        ("gateways", 4, [["mesh"], ["gate"], ["mesh", "gate"]]),
    ]
    return {field: one(draw, values) for field, percent, values in choices if chance(draw, percent)}


_PSEUDO_CONDITIONS = [
    ("method", 15, ["GET", "POST", "HEAD", "get", "P"]),
    ("authority", 12, ["@a", "@A", "@a:9080", _full("@a"), f"{_full('@a')}:9080", "@"]),
    ("scheme", 8, ["http", "https"]),
]
_NAMES = [*HEADERS, *HEADERS, *PSEUDO]
_NAMED_CONDITIONS = [("headers", 45, _NAMES), ("withoutHeaders", 20, _NAMES), ("queryParams", 25, ["k", "j", "K", "%6B"])]


def _text(draw: Draw, values: list[str], *, presence: bool, star: bool = False, empty_prefix: bool = False) -> Json:
    kinds = ["exact", "exact", "prefix", "prefix", "regex", *(["presence"] if presence else []), *(["star"] if star else [])]
    kind = one(draw, kinds)
    if kind == "presence":
        return {}
    if kind == "star":
        return {"regex": "*"}
    if kind == "regex":
        return {"regex": one(draw, REGEXES)}
    value = one(draw, values)
    if kind == "prefix":
        value = value[: draw(st.integers(0, min(len(value), 6)))]
        return {"prefix": value} if value or empty_prefix else {"exact": value}
    return {"exact": value}


def _retries(draw: Draw) -> Json:
    if chance(draw, 8):
        return {"attempts": 0}
    found: Json = {"attempts": one(draw, [1, 2, 3])}
    if chance(draw, 90):
        words = some(draw, [*HTTP_CONDITIONS, *GRPC_CONDITIONS, "503", "404", "409", "5xx", "gateway-error", "reset"], 4)
        found["retryOn"] = ",".join(words)
    if chance(draw, 30):
        found["perTryTimeout"] = SHORT
    found["backoff"] = one(draw, ["1ms", "2ms"])
    if chance(draw, 20):
        found["retryIgnorePreviousHosts"] = one(draw, [True, False])
    return found


def _fault(draw: Draw) -> Json:
    fault: Json = {}
    if chance(draw, 50):
        fault["delay"] = {"fixedDelay": "0.05s", **_percentage(draw)}
    if not fault or chance(draw, 50):
        error = one(draw, ABORTS)
        fault["abort"] = {**error, **_percentage(draw)}
    return fault


def _percentage(draw: Draw) -> Json:
    return {"percentage": {"value": one(draw, PERCENTS)}} if chance(draw, 90) else {}


# Requests


def _request(draw: Draw, service: str, ports: dict[str, list[int]], routes: list[Json]) -> Asked:
    aim = _aim(draw, routes) if service == "@a" else {}
    port = aim.get("port") if aim.get("port") in ports[service] else one(draw, ports[service])
    headers = [*_aimed_headers(draw, aim), *_headers(draw)]
    method = _fitting(draw, aim.get("method"), METHODS)
    body = None if method in ("GET", "HEAD", "OPTIONS", "DELETE", "PURGE") else one(draw, [None, 0, 5, 3000])
    return Asked(
        method=method if method in METHODS else "GET",
        port=port,
        authority=_authority(draw, service, port),
        path=_path(draw, aim),
        headers=tuple(headers),
        script=_script(draw),
        body=body,
    )


def _aim(draw: Draw, routes: list[Json]) -> Json:
    matches = [match for route in routes for match in route.get("match", ())]
    return one(draw, matches) if matches and chance(draw, 75) else {}


def _fitting(draw: Draw, condition: Json | None, otherwise: list[str]) -> str:
    """A text that meets a condition, mostly."""
    if not condition or chance(draw, 10):
        return str(one(draw, otherwise))
    if "exact" in condition:
        return str(condition["exact"])
    if "prefix" in condition:
        return str(condition["prefix"] + one(draw, ["", "", "a", "/b", "1"]))
    sample = _SAMPLES.get(condition.get("regex", ""))
    return str(sample if sample is not None else one(draw, otherwise))


_SAMPLES = {
    "a": "a", "a.*": "ab", "[a1/]+": "/a", "a|1": "1", "(?i)a": "A", "/a.*": "/a/1", "/a/[^/]+": "/a/1", "/.*b": "/a/b",
    ".": "1", "..": "ab", "é": "é", "(?i)É": "é", r"\d+": "12", "^a$": "a", "(a)(b)?": "ab", "a{1,3}": "aa",
    "/": "/", "//": "//", "/%.*": "/%61", r"/a/\.\./b": "/a/../b", "1|12": "12",
}  # fmt: skip


def _path(draw: Draw, aim: Json) -> str:
    path = _fitting(draw, aim.get("uri"), PATHS)
    if aim.get("ignoreUriCase") and chance(draw, 50):
        path = path.swapcase()
    path = path if path.startswith("/") else f"/{path}"
    query = one(draw, QUERIES)
    if aim.get("queryParams") and chance(draw, 80):
        query = _aimed_query(draw, aim["queryParams"])
    whole = path + query + one(draw, FRAGMENTS)
    return "".join(char if char.isascii() and char != " " else f"%{byte:02X}" for char in whole for byte in _bytes(char))


def _aimed_query(draw: Draw, conditions: Json) -> str:
    """Parameters that meet the conditions, among others, maybe given twice or without a value."""
    parts = [
        name if condition in ({}, {"exact": ""}) and chance(draw, 50) else f"{name}={_fitting(draw, condition, TEXTS)}"
        for name, condition in conditions.items()
    ]
    for name in conditions:
        if chance(draw, 35):
            other = one(draw, [f"{name}={one(draw, TEXTS)}", name, f"{name}=", f"{name.swapcase()}=1", "", "=", f"x{name}=1"])
            parts.insert(draw(st.integers(0, len(parts))), other)
    return "?" + one(draw, ["&", "&", "&", "&&", ";"]).join(parts)


def _bytes(char: str) -> bytes:
    return char.encode() if not char.isascii() or char == " " else char.encode()[:1]


def _authority(draw: Draw, service: str, port: int) -> str:
    name = one(draw, [service, service, _full(service), f"{service}.default", f"{service}.default.svc", service.upper()])
    if port == 80 and chance(draw, 60):
        return str(name)
    return f"{name}:{port}" if chance(draw, 90) else str(name)


def _aimed_headers(draw: Draw, aim: Json) -> list[tuple[str, str]]:
    found = []
    for name, condition in aim.get("headers", {}).items():
        if not name.startswith(":"):
            found.append((_cased(draw, name), _wire(draw, _fitting(draw, condition, TEXTS))))
            if chance(draw, 20):
                twice = (_cased(draw, name), _wire(draw, one(draw, TEXTS)))
                found.insert(draw(st.integers(0, len(found))), twice)
    return found


def _headers(draw: Draw) -> list[tuple[str, str]]:
    found = [
        (_cased(draw, name), _wire(draw, one(draw, TEXTS)))
        for name in draw(st.lists(st.sampled_from(HEADERS), max_size=one(draw, [0, 0, 1, 3])))
    ]
    if chance(draw, 12):
        found += [(name, one(draw, EXTRAS[name])) for name in some(draw, sorted(EXTRAS), 2)]
    if chance(draw, 15):
        found += [(name, one(draw, ORDERS[name])) for name in some(draw, sorted(ORDERS), 3)]
    return found


def _cased(draw: Draw, name: str) -> str:
    return name.upper() if chance(draw, 10) else name


def _wire(draw: Draw, text: str) -> str:
    """A header's value as latin-1 text of the bytes on the wire: UTF-8 mostly."""
    if text.isascii():
        return text
    if "€" not in text and chance(draw, 30):
        return text
    return text.encode().decode("latin-1")


def _script(draw: Draw) -> str:
    if chance(draw, 40):
        return "200"
    if chance(draw, 45):
        return "|".join(one(draw, FAILING) for _ in range(one(draw, [1, 1, 2, 3])))
    return "|".join(_word(draw) for _ in range(one(draw, [1, 1, 2, 3])))


def _word(draw: Draw) -> str:
    kind = draw(st.integers(0, 99))
    if kind < 68:
        return f"{one(draw, STATUSES)}{one(draw, ANSWERS) if chance(draw, 40) else ''}"
    if kind < 82:
        return str(one(draw, ["close", "reset"]))
    return str(one(draw, ["hang", "hang", "hang", "hang", "cut", "garbage"]))


assert float(SHORT[:-1]) * 4 < HANG < float(WHOLE[:-1])
