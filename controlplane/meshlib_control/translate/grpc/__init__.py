"""What gRPC's own xDS clients get, in any language: the same resources, said in the words that they understand.

The rule: nothing that they would reject (a NACK keeps the old state without telling the user), ignore, or read otherwise than
Envoy does. What can be said in other words is; the rest is listed in docs/grpc.md.
"""
