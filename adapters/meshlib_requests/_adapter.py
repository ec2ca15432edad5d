"""The transport adapter for explicit use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from meshlib.runtime.mesh import Mesh
from meshlib_requests._gate import Gate


class MeshAdapter(HTTPAdapter):
    """Sends what is in the mesh through the mesh, and everything else as usual: `session.mount("http://", MeshAdapter())`.

    Retries, time limits and mutual TLS of meshed requests are the mesh's; `max_retries` and pool sizes hold for the others.
    Responses carry what the mesh saw as `response.meshlib`.

    Args:
        mesh: None: the process's own, from `MESHLIB_*` in the environment.
        options: those of `HTTPAdapter`.
    """

    def __init__(self, mesh: Mesh | None = None, **options: Any) -> None:
        self._gate = Gate(mesh)
        super().__init__(**options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._gate = Gate()  # a mesh does not travel between processes
        super().__setstate__(state)  # type: ignore[misc, unused-ignore]  # missing in the published stubs

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        response = self._gate.send(self, request, timeout, proxies)
        if response is not None:
            return response
        return super().send(request, stream=stream, timeout=timeout, verify=verify, cert=cert, proxies=proxies)
