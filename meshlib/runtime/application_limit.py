"""Rate limits that the application asks for by itself, because only it knows what they count.

    if not await meshlib.limit_async("exports", user=user.id):
        return Response(status_code=429)

The limit is a RateLimit object with `application` in its spec; its name and the keys are what is said here.
"""

from __future__ import annotations

import logging
from functools import partial

from meshlib.inbound.rate_limit import application_limit, let_pass
from meshlib.runtime.admission import answer, answer_async, drive_async, drive_sync
from meshlib.runtime.mesh import Mesh, default

_log = logging.getLogger("meshlib")
_missing: set[str] = set()


def limit(name: str, /, *, mesh: Mesh | None = None, **values: object) -> bool:
    """Whether the application may go on; counts this time if so.

    Args:
        name: of the RateLimit object.
        mesh: None: the process's own, from `MESHLIB_*` in the environment.
        values: one for each of the object's `application.keys`; their text is what counts.

    True as well where the configuration has no limit of that name, with one warning, and while nobody serves: limits come with
    the configuration of our own port.

    Raises:
        ValueError: other keys than the limit has.
    """
    mesh = mesh or default()
    found = application_limit(mesh.inbound.filters, name)
    if found is None:
        return _unlimited(name)
    return drive_sync(let_pass(found, values, mesh.counting), partial(answer, mesh))


async def limit_async(name: str, /, *, mesh: Mesh | None = None, **values: object) -> bool:
    """As `limit`; awaits the service where the limit is a global one."""
    mesh = mesh or default()
    found = application_limit(mesh.inbound.filters, name)
    if found is None:
        return _unlimited(name)
    return await drive_async(let_pass(found, values, mesh.counting), partial(answer_async, mesh))


def _unlimited(name: str) -> bool:
    if name not in _missing:
        _missing.add(name)
        _log.warning("meshlib: there is no rate limit %s for the application; nothing is limited by it", name)
    return True
