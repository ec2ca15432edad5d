"""What the blocking API raises for a call that the mesh itself ended: a `grpc.RpcError` with all its usual methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Never

import grpc

from ._call import Status


class MeshCallError(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[misc]  # grpc has no type information
    """A finished call without a peer. `__cause__` is the `meshlib.errors.UpstreamError` with what the mesh saw."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.details)
        self._status = status
        self.__cause__ = status.__cause__

    def __str__(self) -> str:
        return f"<{type(self).__name__} {self._status.code} {self._status.details}>"

    __repr__ = __str__

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._status.code

    def details(self) -> str:
        """For people: what the mesh saw."""
        return self._status.details

    def debug_error_string(self) -> str:
        """As `details`."""
        return self._status.details

    def initial_metadata(self) -> tuple[()]:
        """None came."""
        return ()

    def trailing_metadata(self) -> tuple[()]:
        """None came."""
        return ()

    # grpc.RpcContext

    def is_active(self) -> bool:
        """It is over."""
        return False

    def time_remaining(self) -> None:
        """Of no meaning any more."""

    def cancel(self) -> bool:
        """There is nothing to cancel."""
        return False

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """Not called: the call is over."""
        return False

    # grpc.Future

    def cancelled(self) -> bool:
        """Whether the application did it."""
        return bool(self._status.code is grpc.StatusCode.CANCELLED)

    def running(self) -> bool:
        """It is over."""
        return False

    def done(self) -> bool:
        """It is over."""
        return True

    def result(self, timeout: float | None = None) -> Never:
        """Raises itself."""
        raise self

    def exception(self, timeout: float | None = None) -> MeshCallError:
        """Itself."""
        return self

    def traceback(self, timeout: float | None = None) -> Any:
        """Where it was raised."""
        return self.__traceback__

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """Called at once."""
        fn(self)
