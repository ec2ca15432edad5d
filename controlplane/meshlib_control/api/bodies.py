"""What requests carry: typed bodies, refused with a sentence if they are otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request

from meshlib.errors import ConfigurationError
from meshlib_control.access.token_wish import API, JOIN, TokenWish

Body = TypeVar("Body", bound=Struct)

_Name = Annotated[str, Meta(max_length=253)]


class Manifest(Struct, frozen=True):
    """YAML text and the name of the file that it came from; `api` if it came from none."""

    documents: str
    file: str = "api"


class ApplyBody(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """POST /v1/apply: one text in `documents`, or several in `files`; all are applied, or none.

    Args:
        namespace: for documents that name none.
        author: who typed, as the command knows it; the history has it beside the proved subject.
    """

    documents: str = ""
    file: str = "api"
    files: list[Manifest] = []
    namespace: _Name = "default"
    dry_run: bool = False
    author: _Name = ""

    def manifests(self) -> list[tuple[str, str]]:
        """File names with their texts."""
        single = [Manifest(self.documents, self.file)] if self.documents else []
        return [(manifest.file, manifest.documents) for manifest in (*single, *self.files)]


class TokenBody(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """POST /v1/tokens: for a service account, or for a user.

    Args:
        use: `join` or `api`; a user's token is for the API.
        once: a join token is good for one certificate.
    """

    service_account: str = ""
    namespace: str = "default"
    user: str = ""
    groups: tuple[str, ...] = ()
    use: Literal["join", "api"] = JOIN
    lifetime_seconds: Annotated[int, Meta(ge=0, le=10**9)] = 86400
    once: bool = False

    def wish(self) -> TokenWish:
        """What is asked for. Raises BadBody for both or none of a user and a service account."""
        if bool(self.user) == bool(self.service_account):
            raise BadBody("a token is for a serviceAccount or for a user: give one of the two")
        if self.once and (self.user or self.use == API):
            raise BadBody("only join tokens count once: leave out `once`, or `use` and `user`")
        lifetime = timedelta(seconds=self.lifetime_seconds)
        if self.user:
            return TokenWish(lifetime, user=self.user, groups=self.groups, use=API)
        return TokenWish(lifetime, self.namespace, self.service_account, use=self.use, once=self.once)


class ExplainBody(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/explain.

    Args:
        caller: the service that asks; empty: a client that is no service.
        namespace: of the caller.
    """

    url: str
    method: str = "GET"
    headers: list[tuple[str, str]] = []
    caller: str = msgspec.field(default="", name="from")
    namespace: _Name = "default"


class AuthzBody(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/authz.

    Args:
        caller: a service account, `namespace/account` or a SPIFFE id; empty: the caller shows no certificate.
        address: the caller's IP address.
        namespace: of the caller, for short names of hosts, too.
    """

    url: str
    method: str = "GET"
    headers: list[tuple[str, str]] = []
    caller: str = msgspec.field(default="", name="from")
    address: str = "127.0.0.1"
    namespace: _Name = "default"


class RotateBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What `ca rotate` sends.

    Args:
        hurry: take the next step of a replacement that is under way without waiting for anybody.
    """

    hurry: bool = False


class BadBody(ConfigurationError):
    """The body is no JSON, or not of the form that the path takes."""


async def read_body(request: Request, form: type[Body]) -> Body:
    """The body of a request.

    Raises:
        BadBody: with the path of what is wrong.
    """
    try:
        return msgspec.json.decode(await request.body(), type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadBody(f"the body is not as expected: {error}") from error
