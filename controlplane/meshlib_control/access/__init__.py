"""Who may do what through the API: `credentials` says who asks, `roles` what they may.

Both are Kubernetes' own: the objects, the words and the refusals of its RBAC, so that what a team wrote for its cluster is
understood here.
"""
