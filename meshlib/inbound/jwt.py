"""Are the tokens of a request good? Envoy's `jwt_authn` filter: its order, its words, its outputs.

Rule 1: all tokens at a provider's locations must be good. An application may look at another one than we did.
Rule 2: no token is no bad token: whether one is needed is said by the requirement, or by an AuthorizationPolicy.
Rule 3: a header that a provider writes is never the client's own, whichever provider the tokens satisfy, and spelled with `_`
        neither. (Envoy removes those of the providers that it tried.)
Rule 4: a token that was proved is not proved again while this configuration, with its keys, is in force. Its times are looked
        at always.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from meshlib.config.jwt import METADATA, AllOf, AnyOf, JwtAuthn, JwtProvider, Provided, Requirement
from meshlib.facts import Request
from meshlib.identity.jwk import read_keys
from meshlib.identity.jwt import JwtProblem, JwtRefused, check_audiences, check_signature, check_time, read
from meshlib.inbound.jwt_location import tokens, with_headers, without_token
from meshlib.inbound.jwt_output import Proved, proved
from meshlib.inbound.recent import Recent
from meshlib.inbound.visit import Denied, Visit

KEPT: Final = 1000  # tokens of a provider, at least
LONGEST_KEPT: Final = 4096  # characters; a longer token is proved each time (the bound of Envoy's cache)
_LONGEST_REALM: Final = 256  # characters of the path (Envoy)


class TokenCheck:
    """The filter, made ready for a port: its keys are read, and it remembers what was proved."""

    def __init__(self, authn: JwtAuthn) -> None:
        self._providers = {provider.name: _Provider(provider) for provider in authn.providers}
        self._requirement = authn.requirement
        self._bypass_preflight = authn.bypass_preflight
        self._written = frozenset[str]().union(*(_plain(provider.written_headers) for provider in authn.providers))

    def __call__(self, visit: Visit) -> Denied | None:
        """Refuse the request, or leave it as the application shall see it, with the claims in its metadata."""
        asked = visit.request
        if self._written:
            visit.request = _without(asked, self._written)
        if self._bypass_preflight and asked.method == "OPTIONS" and _is_preflight(asked):
            return None
        problem = self._problem(self._requirement, visit)
        return None if problem is None else _denied(problem, asked)

    def _problem(self, requirement: Requirement, visit: Visit) -> JwtProblem | None:
        """Why a requirement is not met; None: it is."""
        if isinstance(requirement, Provided):
            return self._providers[requirement.provider].problem(visit)
        if isinstance(requirement, AllOf):
            return next((problem for one in requirement.requirements if (problem := self._problem(one, visit))), None)
        return self._problem_of_any(requirement, visit)

    def _problem_of_any(self, requirement: AnyOf, visit: Visit) -> JwtProblem | None:
        problems = []
        for one in requirement.requirements:
            problem = self._problem(one, visit)
            if problem is None:
                return None
            problems.append(problem)
        told = _told(problems)
        forgiven = requirement.allow_failed or (requirement.allow_missing and told is JwtProblem.MISSING)
        return None if forgiven else told


class _Provider:
    """An issuer whose keys are read."""

    __slots__ = ("_keys", "_proved", "_provider", "_written")

    def __init__(self, provider: JwtProvider) -> None:
        self._provider = provider
        self._written = _plain(provider.written_headers)
        self._keys = read_keys(provider.jwks)
        self._proved = Recent[Proved](KEPT)

    def problem(self, visit: Visit) -> JwtProblem | None:
        """The first thing wrong with the tokens at its locations; None: all are good, and the visit shows it."""
        provider = self._provider
        if self._written:
            visit.request = _without(visit.request, self._written)  # what another provider wrote
        asked = visit.request
        found = [(location, token) for location in provider.locations for token in tokens(location, asked)]
        if not found:
            return JwtProblem.MISSING
        for location, token in found:
            try:
                good = self._good(token, visit.now)
            except JwtRefused as refused:
                return refused.problem
            if good.headers:
                visit.request = with_headers(visit.request, (*visit.request.headers, *good.headers))
            if not provider.forward:
                visit.request = without_token(location, visit.request)
            if provider.metadata_key:
                visit.metadata.setdefault(METADATA, {})[provider.metadata_key] = good.claims
        return None

    def _good(self, token: str, now: float) -> Proved:
        """What is proved by a token. Raises JwtRefused."""
        provider = self._provider
        known = self._proved.get(token)
        if known is not None:
            check_time(known.not_before, known.expires, now, provider.skew)
            return known
        written = read(token)
        if provider.issuer and written.issuer != provider.issuer:
            raise JwtRefused(JwtProblem.UNKNOWN_ISSUER)
        check_time(written.not_before, written.expires, now, provider.skew)
        check_audiences(written, provider.audiences)
        check_signature(written, self._keys)
        good = proved(written, provider)
        if len(token) <= LONGEST_KEPT:
            self._proved.put(token, good)
        return good


def _told(problems: Iterable[JwtProblem]) -> JwtProblem:
    """What the client is told if no provider is satisfied. Envoy: the last that says more than "none of mine"."""
    told = JwtProblem.MISSING
    for problem in problems:
        if problem not in (JwtProblem.MISSING, JwtProblem.UNKNOWN_ISSUER) or told is JwtProblem.MISSING:
            told = problem
    return told


def _plain(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name.replace("_", "-") for name in names)


def _without(request: Request, names: frozenset[str]) -> Request:
    """The request without headers of these plain names. CGI's rule, which WSGI keeps, makes `_` of `-`: both count."""
    kept = [header for header in request.headers if header[0].replace("_", "-") not in names]
    return request if len(kept) == len(request.headers) else with_headers(request, kept)


def _is_preflight(request: Request) -> bool:
    """Fetch: a preflight asks which methods are allowed, without credentials."""
    return bool(request.header("origin") and request.header("access-control-request-method"))


def _denied(problem: JwtProblem, asked: Request) -> Denied:
    """Envoy's answer: 403 for a token that is for others, 401 for everything else."""
    error = "" if problem is JwtProblem.MISSING else ', error="invalid_token"'
    realm = f"{asked.scheme}://{asked.authority}{asked.path[:_LONGEST_REALM]}"
    return Denied(
        problem.value,
        status=403 if problem is JwtProblem.AUDIENCE_NOT_ALLOWED else 401,
        headers=(("www-authenticate", f'Bearer realm="{realm}"{error}'),),
        detail=f"jwt_authn_access_denied{{{problem.value.replace(' ', '_')}}}",
    )
