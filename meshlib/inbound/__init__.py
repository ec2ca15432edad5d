"""A request arrives: who sent it (`sender`), may it enter (`admit`), what may it say about itself (`forwarded`)."""

from meshlib.inbound.sender import claims, peer

__all__ = ["claims", "peer"]
