"""The control plane's own API: JSON over HTTP, for the commands and for anybody's scripts.

Rule 1: every path but `/ready` asks for the admin token, also paths that do not exist.
Rule 2: what is wrong with an input is told with file, line, field and a suggestion; nothing is changed then.
"""
