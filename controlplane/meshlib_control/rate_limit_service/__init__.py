"""A rate limit service: Envoy's protocol (envoy.service.ratelimit.v3), the configuration of envoyproxy/ratelimit.

folder of YAML -> limits      which limit a descriptor has
                    |
request -> service -> store   how often it was counted in the window that runs now
"""
