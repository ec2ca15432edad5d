"""What an Envoy sidecar is served, in Istio's names and shapes.

listeners.py  virtualOutbound, 0.0.0.0_9080 (HTTP by route configuration `9080`), http_proxy
inbound.py    virtualInbound, inbound|8080||
routes.py     route configurations `9080` and `http_proxy`: one virtual host per service
clusters.py   PassthroughCluster, BlackHoleCluster, InboundPassthroughCluster; what Envoy needs beyond other clients
secrets.py    ROOTCA

Routes, subsets, endpoints and peer authentication are decided where they are for all clients; here they are only put together.
"""
