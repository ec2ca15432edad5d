"""The protobuf messages of xDS v3 and of Istio's CA, from one data file, in a descriptor pool of their own.

Why not xds-protos: installed, it overwrites files of opentelemetry-proto and googleapis-common-protos, and importing it costs
100 ms. `messages.binpb` is made from it while the package is built (hatch_build.py) and loads in a few milliseconds.

`message("envoy.config.route.v3.Route")` gives the class. Only decoding here, translation in the control plane, and the two
streams (xDS, CA) may call it; everything else works on `meshlib.config.model`.
"""

from __future__ import annotations

import zlib
from functools import cache
from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

TYPE_PREFIX = "type.googleapis.com/"


def _load() -> DescriptorPool:
    data = zlib.decompress(files("meshlib.config").joinpath("messages.binpb").read_bytes())
    pool = DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.Add(file)
    return pool


# While importing, under Python's import lock: two threads that begin at once must share one pool, as messages of different
# pools do not fit into each other.
_pool = _load()


@cache
def message(full_name: str) -> Any:
    """The class of a message, by its full protobuf name. Raises KeyError for a message the package does not carry."""
    descriptor = _pool.FindMessageTypeByName(full_name)
    return message_factory.GetMessageClass(descriptor)


def from_json(full_name: str, data: Any) -> Any:
    """A message from plain data in protobuf's JSON form; names in snake case are understood, too.

    Raises:
        google.protobuf.json_format.ParseError: it does not fit.
    """
    return json_format.ParseDict(data, message(full_name)(), descriptor_pool=_pool)


def type_url(full_name: str) -> str:
    """The `type_url` under which a message travels in an Any: `type.googleapis.com/` and its name."""
    return TYPE_PREFIX + full_name


def pack(value: Any) -> Any:
    """The message in a `google.protobuf.Any`, serialized deterministically so that equal messages give equal bytes."""
    return message("google.protobuf.Any")(
        type_url=type_url(value.DESCRIPTOR.full_name), value=value.SerializeToString(deterministic=True)
    )


def unpack(any_value: Any) -> Any:
    """The message inside an Any. Raises KeyError for an unknown type and google.protobuf.message.DecodeError for bad bytes."""
    return message(any_value.type_url.removeprefix(TYPE_PREFIX)).FromString(any_value.value)
