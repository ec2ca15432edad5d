"""Hostile requests for the authorization referee, as bytes: what one reader may take for something else than another."""

from __future__ import annotations

from random import Random

from tests.conformance.authorization_drawing import HEADERS, HOSTS, METHODS, PATHS, VALUES


def _split(text: str, by: str | None = None) -> list[str]:
    """Many short texts in few lines."""
    return text.split(by)


_PIECES = _split(
    "/ / // . .. a b admin Admin %2e %2E %2F %5c %5C \\ \\\\ %61dmin %41 % %zz %00 %25 %252e %252F ? ?x=1 # #frag"
)
_PIECES += _split("; ..; .; users reviews 0 %C3%A4 \u00e4 \udce4 %c0%ae %u002f %e4 * ~ ' | < \" ^ ` { } : @ %09 %0a %7f %20")
_PIECES += [" ", "\t", "\x01", "\x7f"]
_ODD_HOSTS = _split("|reviews,evil.example|joe@reviews|reviews:|reviews:99999|reviews.|[::1]|%72eviews|reviews/admin", "|")
_ODD_HOSTS += _split(
    "reviews\\evil|reviews?x|reviews#x|r\u00e9views|\udcff|http://reviews|reviews evil.example|@|a@b@reviews", "|"
)
_ODD_VALUES = _split(
    "admin\udcff|\x01admin|admin\x00|admin\r\n admin|admin\r\n\tb|admin\tb|\x0badmin|admin\x7f|\tadmin\t", "|"
)
_ODD_VALUES += _split('admin\rx-role: admin|admin\nx-role: a|a, admin|admin,|"admin"|admin\xa0', "|")
_ODD_NAMES = _split(
    "x_team|X_Role|x-team |x-team\t| x-team|x team|x-t\xe9am|x-team\x00||x-team:|x\\team|(x-team)|\x7fx-team", "|"
)
_ODD_NAMES += _split(":authority|:path|:method|Host |h\udcffst", "|")
_HIDDEN = _split("x-team|X-Role|close, x-team|keep-alive, cookie|authorization|x-forwarded-for|host|:authority|te", "|")
_ORIGINS = _split(
    "x-original-url x-rewrite-url x-forwarded-host x-http-method-override x-forwarded-prefix x-envoy-original-path"
)
_PROTOCOLS = ["http", "https", "HTTP", "a", "admin"]
"""What x-forwarded-proto may say. Where it is empty Envoy's router finds no route, whatever the policies decided."""
_VERSIONS = ["HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/01.1", "", "HTTP/1.1x"]
_LENGTH, _CHUNKED = "content-length: 0", "transfer-encoding: chunked"
_FRAMES = [(_LENGTH,), (_LENGTH, _LENGTH), (_LENGTH, _CHUNKED), (_LENGTH, "content-length: 5"), (_CHUNKED, _CHUNKED)]
_FRAMES += [(f"content-length: {odd}",) for odd in ("+0", "0, 0", "-1", "0x0", "")]
_FRAMES += [
    (f"transfer-encoding: {odd}",)
    for odd in _split("chunked|chunked, chunked|identity|xchunked|\x0bchunked|gzip, chunked|", "|")
]
_FRAMES += [("transfer-encoding : chunked",), ("Transfer_Encoding: chunked",)]
"""What says where a body ends. There is none, but the end of a chunked one."""


def request(draw: Random) -> bytes:
    """One request as its bytes, with no more than an empty body."""
    lines = [f"{_method(draw)}{draw.choice(_GAPS)}{_target(draw)} {_version(draw)}", *_host_lines(draw), *_headers(draw)]
    framed = draw.choice(_FRAMES) if draw.random() < 0.06 else ()
    lines += framed
    end = "\n" if draw.random() < 0.005 else "\r\n"
    body = "0\r\n\r\n" if any("chunked" in line for line in framed) else ""
    return ("".join(f"{line}{end}" for line in [*lines, ""]) + body).encode("utf-8", "surrogateescape")


_GAPS = [" "] * 200 + ["  ", "\t"]


def _method(draw: Random) -> str:
    method = draw.choice(METHODS)
    return (
        method
        if draw.random() < 0.97
        else draw.choice((method.lower(), method.title(), "FOO", "PURGE", "CONNECT", "TRACE", ""))
    )


def _version(draw: Random) -> str:
    return "HTTP/1.1" if draw.random() < 0.98 else draw.choice(_VERSIONS)


def _host_lines(draw: Random) -> list[str]:
    chance, name = draw.random(), draw.choice(("Host", "host", "HOST"))
    if chance < 0.93:
        return [f"{name}: {draw.choice(HOSTS)}"]
    if chance < 0.96:
        return [f"{name}: {draw.choice(_ODD_HOSTS)}"]
    if chance < 0.98:
        return []
    return [f"Host: {draw.choice(HOSTS)}", f"{name}: {draw.choice(HOSTS)}"]


def _headers(draw: Random) -> list[str]:
    lines: list[str] = []
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        name = draw.choice(HEADERS)
        lines.append(_line(draw, name))
        chance = draw.random()
        if chance < 0.15:
            lines.append(_line(draw, name))
        elif chance < 0.2:
            lines.insert(0, f"connection: {draw.choice(('', 'keep-alive, ', 'Upgrade,'))}{_cased(draw, name)}")
    if draw.random() < 0.12:
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(_SMUGGLING)(draw))
    return lines


def _line(draw: Random, name: str) -> str:
    values = _PROTOCOLS if name == "x-forwarded-proto" else VALUES
    return f"{_cased(draw, name)}: {draw.choice(values)}"


def _cased(draw: Random, name: str) -> str:
    return draw.choice((name, name.upper(), name.title()))


_SMUGGLING = (
    lambda draw: f"{draw.choice(_ODD_NAMES)}: {draw.choice(VALUES)}",
    lambda draw: f"{draw.choice(HEADERS)}: {draw.choice(_ODD_VALUES)}",
    lambda draw: f"connection: upgrade, http2-settings\r\nupgrade: {draw.choice(('h2c', 'H2C', 'a'))}",
    lambda draw: f"connection: {draw.choice(_HIDDEN)}",
    lambda draw: f"{draw.choice(_ORIGINS)}: {draw.choice((*PATHS, *HOSTS, *METHODS))}",
    lambda draw: f"{draw.choice(HEADERS[:-1])}:{draw.choice(VALUES)}",
    lambda draw: draw.choice(("admin", ":", "x-team", " continued", "\tcontinued")),
)
"""Lines that one reader may skip, join or split where another does not."""


def _target(draw: Random) -> str:
    chance = draw.random()
    pieces = "".join(draw.choice(_PIECES) for _ in range(draw.randrange(1, 6)))
    path = draw.choice(PATHS) if chance < 0.5 else f"/{pieces}"
    if draw.random() < 0.2:
        path += draw.choice(["?", "?x=1", "?/admin", "?a=%2F..", "#", "#/admin", "??"])
    if chance > 0.97:
        return draw.choice(
            ["*", draw.choice(HOSTS), "admin", "", "http:/admin", f"ftp://x{path}", f"//{draw.choice(HOSTS)}{path}"]
        )
    if chance > 0.92:
        host = draw.choice(HOSTS if draw.random() < 0.9 else _ODD_HOSTS)
        return (
            f"{draw.choice(('http', 'https', 'HTTP'))}://{host}{draw.choice((path, path, '', '?x', '#x', path.lstrip('/')))}"
        )
    return path
