"""A request arrives: who sent it (`sender`), may it enter (`admit`), what may it say about itself (`forwarded`)."""

from meshlib.inbound.sender import peer

__all__ = ["peer"]
