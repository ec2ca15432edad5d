"""Zero code: an unmodified program joins the mesh.

    meshlib run --service reviews --port 9080 -- uvicorn app:app

`launch` puts a folder of ours first on PYTHONPATH and becomes the program: no parent process remains, signals and exit codes
are the program's own. In every Python process below, `sitecustomize` watches for the modules that integrations know and does
nothing else; only when one of them is imported are the hooks loaded, and the integration patches that module.

Rule 1: never break the program. What fails is one warning, unless MESHLIB_STRICT=1: then the launcher asks the control plane
        for a certificate, and does not become the program without one (exit code 69).
Rule 2: nothing is joined while importing; the adapters join when a server serves or a client sends, after any fork.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def launch(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Become `command`, in the mesh that `environ` names. Returns only if that fails: with the exit code to end with.

    Args:
        command: the program and its arguments; looked up on PATH.
        environ: the whole environment, `MESHLIB_*` included.

    Raises:
        SettingsError: a `MESHLIB_*` variable is wrong.
    """
    from meshlib.run.program import launch

    return launch(command, environ)


__all__ = ["launch"]
