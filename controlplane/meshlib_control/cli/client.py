"""The commands' way to the control plane's API. Standard library only, because every command waits for these imports."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from meshlib.errors import SettingsError
from meshlib_control.current import Current, home_folder, read_current

from .addresses import http_url
from .failure import BAD_INPUT, FAILURE, UNREACHABLE, Failure

DEFAULT_API = "http://127.0.0.1:15014"
TIMEOUT = 30.0  # seconds

_TOKEN = "MESHLIB_ADMIN_TOKEN_FILE=DATA/admin.token meshlib ...  (DATA is the control plane's --data folder)"  # noqa: S105
_START = "start one: meshlib controlplane  (or say where it is: --api URL)"


@dataclass(frozen=True, slots=True)
class Api:
    """A control plane's API.

    Args:
        url: `http://127.0.0.1:15014`, without path.
        token: the admin token, or an API token; empty: none was found.
        root_cert: PEM file that an https API's certificate must lead to; empty: the system's.
    """

    url: str
    token: str
    root_cert: str = ""

    def get(self, path: str, **query: str) -> Any:
        """The answer of a GET; empty query values are left out. Raises Failure."""
        return self._ask("GET", path + _query(query))

    def post(self, path: str, content: Mapping[str, Any]) -> Any:
        """The answer of a POST. Raises Failure."""
        return self._ask("POST", path, json.dumps(content).encode())

    def delete(self, *parts: str, **query: str) -> Any:
        """The answer of a DELETE of a path with these parts. Raises Failure."""
        return self._ask("DELETE", "/" + "/".join(quote(part, safe="") for part in parts) + _query(query))

    def _ask(self, method: str, target: str, body: bytes | None = None) -> Any:
        try:
            status, content = self._exchange(method, target, body)
        except (OSError, HTTPException) as error:
            raise Failure(f"cannot reach the control plane at {self.url}: {_reason(error)}", _START, UNREACHABLE) from error
        answer = _parsed(content, self.url)
        if status == 401 and not self.token:
            raise Failure(f"the control plane at {self.url} asks for its admin token, and none was found here", _TOKEN)
        if status >= 400:
            raise _refusal(status, answer)
        return answer

    def _exchange(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        connection = self._connection()
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json", "accept": "application/json"}
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme == "http":
            return HTTPConnection(host, parts.port, timeout=TIMEOUT)
        context = ssl.create_default_context(cafile=self.root_cert or None)
        return HTTPSConnection(host, parts.port, timeout=TIMEOUT, context=context)


def find_api(url: str, environ: Mapping[str, str] = os.environ) -> Api:
    """The control plane that a command talks to.

    In this order: `--api` or MESHLIB_API, the one named in `$MESHLIB_HOME/current.json`, the default address.
    The token comes from MESHLIB_API_TOKEN or MESHLIB_API_TOKEN_FILE (one of `meshlib token create --user`), else the admin
    token from MESHLIB_ADMIN_TOKEN, MESHLIB_ADMIN_TOKEN_FILE, or the file that `current.json` names.

    Raises:
        Failure: the URL is none, or the token's file cannot be read.
    """
    home = home_folder(environ)
    try:
        current = read_current(home)
    except SettingsError as error:
        raise Failure(str(error), f"rm {home}/current.json") from error
    root_cert = environ.get("MESHLIB_ROOT_CERT") or (current.root_cert if current else "")
    return Api(_url(url or (current.api if current else DEFAULT_API)), _token(environ, current, home), root_cert)


def _url(text: str) -> str:
    parts = http_url(text, "--api", DEFAULT_API, ("http", "https"))
    return f"{parts.scheme}://{parts.netloc}"


def _token(environ: Mapping[str, str], current: Current | None, home: Path) -> str:
    for name in ("MESHLIB_API_TOKEN", "MESHLIB_ADMIN_TOKEN"):
        if environ.get(name):
            return environ[name].strip()
        if environ.get(f"{name}_FILE"):
            return _token_in(Path(environ[f"{name}_FILE"]), f"{name}_FILE")
    known = Path(current.token_file) if current else home / "controlplane" / "admin.token"
    return _token_in(known, "MESHLIB_ADMIN_TOKEN_FILE") if known.exists() else ""


def _token_in(path: Path, variable: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        raise Failure(f"cannot read the token: {error}", f"{variable}=FILE meshlib ...") from error


def _query(values: Mapping[str, str]) -> str:
    given = {name: value for name, value in values.items() if value}
    return f"?{urlencode(given)}" if given else ""


def _parsed(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:
        raise Failure(f"{url} answers, but it is no control plane of meshlib", "check --api and MESHLIB_API") from error


def _refusal(status: int, answer: Any) -> Failure:
    problems = answer.get("errors") or [answer]
    text = "\n       ".join(_sentence(item) for item in problems)
    return Failure(text, _advice(status, problems[0]), BAD_INPUT if status in (400, 422) else FAILURE)


def _sentence(item: Mapping[str, Any]) -> str:
    file, line = item.get("file", ""), item.get("line", 0)
    place = f"{file}:{line}" if file and line else file
    return ": ".join(part for part in (place, item.get("field", ""), item.get("error", "")) if part)


def _advice(status: int, item: Mapping[str, Any]) -> str:
    if item.get("suggestion"):
        return str(item["suggestion"])
    if status == 401:
        return _TOKEN
    if item.get("file"):
        return f"correct {item['file']} and run the command again; nothing was changed"
    return "meshlib get all -A" if status == 404 else "the command's --help"


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}; its root certificate is given by MESHLIB_ROOT_CERT"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
