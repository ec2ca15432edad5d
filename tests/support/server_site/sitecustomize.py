"""What `meshlib run` does to a program, with the contract's mesh in the place of the environment's."""

import meshlib
from meshlib.run import hooks


def _default() -> object:
    from tests.support.server_apps import MESH

    return MESH


meshlib.default = _default  # type: ignore[attr-defined]  # integrations ask for it late
hooks.install()
