"""Whether others may be sent to our port: decisions on data. The control thread tells what happened and does what follows.

    served ── policy asked for, not listed ──certified──> listed ──withdrawn──> not listed, policy stays
       ^                                                                              │
       └──────────────────────────────── served again ────────────────────────────────┘

Rule 1: a port is listed once we can do mutual TLS there, and until its server begins to end. Its policy holds all the time.
Rule 2: who we are goes with the first request of a stream, so each change needs a new stream.
Rule 3: others know of us when a listed port was announced on the stream in use, and the control plane has answered for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from meshlib.runtime.events import Announcement


@dataclass(frozen=True, slots=True)
class Anew:
    """To do: announce on a new stream.

    Args:
        follow: the listener that says what our port accepts.
        forget: the one that did before; empty: none, or still the same.
    """

    follow: str
    forget: str = ""


class Listing:
    """What we say of ourselves on the stream. Every event gives what to do; None: nothing.

    Args:
        address: under which others reach us, until a server says another.
    """

    def __init__(self, address: str) -> None:
        self.announcement = Announcement(address)
        self._certified = False
        self._withdrawn = False
        self._heard = False

    def __repr__(self) -> str:
        said = self.announcement
        state = "listed" if said.listed else "withdrawn" if self._withdrawn else "not listed"
        return f"<Listing {said.address}:{said.target_port} {state}>" if said.target_port else "<Listing nothing served>"

    @property
    def policy(self) -> str:
        """The listener that says what our port accepts; empty: we serve nothing."""
        return self.announcement.inbound_name if self.announcement.target_port else ""

    def served(self, announcement: Announcement) -> Anew | None:
        """A server of ours listens; whether it is listed is decided here."""
        self._withdrawn = False
        return self._say(replace(announcement, listed=self._certified))

    def certified(self) -> Anew | None:
        """We can do mutual TLS from now on."""
        self._certified = True
        return self._say(replace(self.announcement, listed=not self._withdrawn))

    def withdrawn(self) -> Anew | None:
        """Our server is about to end."""
        self._withdrawn = True
        return self._say(replace(self.announcement, listed=False))

    def opened(self) -> None:
        """A new stream: nobody has read there yet who we are."""
        self._heard = False

    def heard(self) -> bool:
        """This stream told about listeners, so who we are was read before. Whether that is news."""
        news, self._heard = not self._heard, True
        return news

    def known(self, *, answered: bool) -> bool:
        """Whether others know of our port.

        Args:
            answered: the control plane has told about `policy`, if only that there is none.
        """
        return answered and self._heard and self.announcement.listed

    def _say(self, announcement: Announcement) -> Anew | None:
        before, former = self.announcement, self.policy
        self.announcement = announcement
        if not self.policy or announcement == before:
            return None
        self._heard = False
        return Anew(self.policy, former if former != self.policy else "")
