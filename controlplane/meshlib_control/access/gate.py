"""The gate before every act: may this subject? What was refused is written down."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from meshlib.errors import MeshError
from meshlib_control.access.roles import Act, Grants, Objects, Subject, given_by, grants_of
from meshlib_control.access.words import resource_of
from meshlib_control.model import MeshObject, ObjectKey

_log = logging.getLogger("meshlib.audit")


class Forbidden(MeshError):
    """The subject may not do this."""

    def __init__(
        self, text: str, suggestion: str = "ask for a role: kubectl's Role and RoleBinding are understood here"
    ) -> None:
        super().__init__(text)
        self.suggestion = suggestion


@dataclass(frozen=True, slots=True)
class Gate:
    """One subject's way to the objects.

    Args:
        subject: who asks.
        objects: in force now: roles and bindings among them.
        refused: is told what was refused, and why.
    """

    subject: Subject
    objects: Objects
    grants: Grants
    refused: Callable[[Subject, Act, str], None]

    def allows(self, act: Act) -> bool:
        """Whether they may; nothing is written down."""
        return self.grants.allows(act)

    def require(self, *acts: Act) -> None:
        """Return if they may do all of this.

        Raises:
            Forbidden: the first that they may not.
        """
        for act in acts:
            if not self.grants.allows(act):
                raise self._refusal(act, f'User "{self.subject.name}" cannot {act}')

    def require_write(self, incoming: Iterable[MeshObject]) -> None:
        """Return if they may create or change these objects, and may do themselves what roles among them give away.

        Raises:
            Forbidden: says what.
        """
        together = {**self.objects, **{found.key: found for found in incoming}}
        for found in incoming:
            act = about("update" if found.key in self.objects else "create", found.key)
            self.require(act)
            missing = self.grants.missing(given_by(together, found), found.key.namespace)
            if missing is not None:
                raise self._refusal(act, f'{found.key} would give away what user "{self.subject.name}" may not do: {missing}')

    def visible(self, key: ObjectKey) -> bool:
        """Whether they may see an object."""
        return self.grants.allows(about("get", key))

    def _refusal(self, act: Act, text: str) -> Forbidden:
        _log.warning("refused: %s", text)
        self.refused(self.subject, act, text)
        return Forbidden(text)


def gate(subject: Subject, objects: Objects, refused: Callable[[Subject, Act, str], None]) -> Gate:
    """The gate for a subject, with the roles that are in force now."""
    return Gate(subject, objects, grants_of(objects, subject), refused)


def about(verb: str, key: ObjectKey) -> Act:
    """An act on an object."""
    return Act(verb, key.group, resource_of(key.kind), key.namespace, key.name)
