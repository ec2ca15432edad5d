"""Bytes that are nearly right: samples with a few wounds. For the short run; the long one is guided by coverage."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

_SPICE = (b"", b"\x00", b"\xff", b"%00", b"%2e%2e/", b"\\", b"\r\n", b"{", b"}", b"[", b": ", b"- ", b"&a *a", b"1e999", b"-1")
_SPICE += (
    b"\xc3\x28",
    b"\xed\xa0\x80",
    b"18446744073709551616",
    b"\x0a" * 40,
    b"[" * 300,
    b"=" * 9,
    b"!!python/object:os.system",
)


def mutated(samples: Sequence[bytes], chance: Random) -> bytes:
    """One of the samples, changed in one to five places; rarely noise alone."""
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(200))
    data = bytearray(chance.choice(samples))
    for _ in range(chance.randint(1, 5)):
        _wound(data, samples, chance)
    return bytes(data)


def _wound(data: bytearray, samples: Sequence[bytes], chance: Random) -> None:
    place = chance.randrange(len(data) + 1)
    end = min(len(data), place + chance.choice([1, 1, 2, 8, 40]))
    match chance.randrange(5):
        case 0 if place < len(data):
            data[place] ^= 1 << chance.randrange(8)
        case 1:
            del data[place:end]
        case 2:
            data[place:place] = data[place:end] * chance.randint(1, 3)
        case 3:
            data[place:end] = chance.choice(_SPICE)
        case _:
            other = chance.choice(samples)
            start = chance.randrange(len(other) + 1)
            data[place:end] = other[start : start + chance.randrange(60)]
