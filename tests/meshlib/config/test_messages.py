"""The messages come from one pool, whoever asks first."""

from __future__ import annotations

import subprocess
import sys

import pytest

from meshlib.config.messages import message, pack, type_url, unpack

RACE = """
import threading
start = threading.Barrier(8)
found = []
def ask():
    start.wait()
    from meshlib.config.messages import message
    found.append(message("envoy.config.core.v3.Node")().DESCRIPTOR.file.pool)
threads = [threading.Thread(target=ask) for _ in range(8)]
[one.start() for one in threads]
[one.join() for one in threads]
assert len(found) == 8
assert len({id(pool) for pool in found}) == 1
"""


def test_threads_that_begin_at_once_share_one_pool() -> None:
    """The xDS stream and the certificate request start together."""
    subprocess.run([sys.executable, "-c", RACE], check=True)


def test_packing_and_unpacking_are_opposites() -> None:
    """A message comes out of its Any as it went in."""
    node = message("envoy.config.core.v3.Node")(id="x")
    packed = pack(node)
    assert packed.type_url == type_url("envoy.config.core.v3.Node") == "type.googleapis.com/envoy.config.core.v3.Node"
    assert unpack(packed) == node


def test_unknown_messages() -> None:
    """A KeyError, which decoding turns into advice."""
    with pytest.raises(KeyError):
        message("envoy.no.such.Message")
