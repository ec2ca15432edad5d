"""Runs at the start of every Python process below `meshlib run`: loads the next sitecustomize, then waits.

Kept to what an older Python can read and to modules that every Python has loaded by now: this file also runs in processes
that have nothing to do with us, such as pip, and in other environments that have no meshlib.
"""

import os
import sys
from importlib import machinery

TYPE_CHECKING = False  # typing itself costs milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_WATCHED = "MESHLIB_RUN"
_STRICT = "MESHLIB_STRICT"
_WARNED = "MESHLIB_RUN_WARNED"  # one warning for a whole tree of processes


class Watch:
    """A finder that finds nothing; it loads the hooks when the first module of interest is asked for."""

    def __init__(self, names: "frozenset[str]") -> None:
        self._names = names
        self._loading = False

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "machinery.ModuleSpec | None":
        if fullname not in self._names or self._loading:
            return None
        self._loading = True
        install()
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        from importlib.util import find_spec

        return find_spec(fullname)  # once more: the hooks have put their own finder first


def install() -> None:
    """Load the hooks; a failure is a warning, or the end if the user wants it so."""
    try:
        from meshlib.run import hooks

        hooks.install()
    except Exception as error:  # whatever is wrong with our installation, the program must run
        if os.environ.get(_STRICT) == "1":
            sys.stderr.write(f"meshlib: {sys.executable} cannot join the mesh: {error}\n")
            raise SystemExit(1) from error
        if not os.environ.get(_WARNED):
            os.environ[_WARNED] = "1"
            sys.stderr.write(f"meshlib: {sys.executable} goes on without the mesh: {type(error).__name__}: {error}\n")


def chain() -> None:
    """Load the sitecustomize that would have been loaded without us: a distribution's, coverage's, OpenTelemetry's."""
    own = os.path.dirname(os.path.abspath(__file__))
    others = [folder for folder in sys.path if os.path.abspath(folder) != own]
    spec = machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    from importlib.util import module_from_spec

    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


def join() -> None:
    """Watch for the modules that the launcher named."""
    names = frozenset(os.environ.get(_WATCHED, "").split(",")) - {""}
    if not names:
        return
    if names.isdisjoint(sys.modules):
        sys.meta_path.insert(0, Watch(names))
    else:
        install()


join()
chain()
