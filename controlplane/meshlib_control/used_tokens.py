"""Join tokens that count once: which of them were used, also after a restart.

Rule 1: noted on disk before the certificate is given out. Who asks again, with the token of somebody else's log for example,
        is refused and the refusal is logged.
Rule 2: a token is noted until it has expired; then its own time refuses it.
Rule 3: for streams a token counts some seconds longer: a process opens its stream while its first certificate is on the way.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from meshlib.errors import CredentialError

from .errors import CannotStart
from .private_file import read_private, write_private
from .tokens import CLOCK_SKEW, ServiceAccount

FILE = "used-tokens.json"
JOINING = timedelta(seconds=10)

_log = logging.getLogger(__name__)


class TokenUsed(CredentialError):
    """It counts once, and somebody has joined with it."""


class UsedTokens:
    """The tokens that were used up. For one thread.

    Args:
        folder: of the control plane's data; None: nothing is kept.

    Raises:
        CannotStart: the file is broken or can be read by others.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._path = folder / FILE if folder is not None else None
        self._used = _read(self._path) if self._path is not None and self._path.exists() else {}

    def take(self, account: ServiceAccount, now: datetime) -> None:
        """Use a token for a certificate. Nothing happens to one that counts more than once.

        Raises:
            TokenUsed: it was used before.
            CannotStart: the disk does not take it; the token is not used.
        """
        if not account.once:
            return
        self._refuse_used(account, now, timedelta(0))
        used = {
            number: times for number, times in self._used.items() if times[1] + CLOCK_SKEW.total_seconds() > now.timestamp()
        }
        used[account.once] = (now.timestamp(), account.expires.timestamp())
        if self._path is not None:
            write_private(self._path, json.dumps(used).encode())
        self._used = used

    def check(self, account: ServiceAccount, now: datetime) -> None:
        """Return if a token may open a stream. Raises TokenUsed."""
        if account.once:
            self._refuse_used(account, now, JOINING)

    def _refuse_used(self, account: ServiceAccount, now: datetime, grace: timedelta) -> None:
        used = self._used.get(account.once)
        if used is not None and now.timestamp() >= used[0] + grace.total_seconds():
            when = datetime.fromtimestamp(used[0], UTC)
            _log.warning("a token of %s/%s that counts once was shown again", account.namespace, account.name)
            raise TokenUsed(
                f"the token counts once, and was used at {when:%Y-%m-%d %H:%M:%S} UTC. If that was not you, somebody else has "
                f"joined as {account.namespace}/{account.name}. Get a new one: meshlib token create --once --service-account "
                f"{account.name}"
            )


def _read(path: Path) -> dict[str, tuple[float, float]]:
    try:
        return {str(number): (float(used), float(ends)) for number, (used, ends) in json.loads(read_private(path)).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise CannotStart(
            f"{path} is broken ({error}), so nobody knows which tokens were used",
            "restore it from a backup; or remove it and token-key.pem, which makes all tokens invalid",
        ) from error
