"""From a World to xDS resources, purely: the same world, node and name always give the same bytes.

listener.py -> route_configuration.py -> cluster.py -> endpoint.py      what a client asks for, in this order
               virtual_service.py        destination_rule.py
inbound.py, peer_authentication.py                                      what a server asks for
"""

from meshlib_control.translate.resources import TYPES, translate, wildcard_names

__all__ = ["TYPES", "translate", "wildcard_names"]
