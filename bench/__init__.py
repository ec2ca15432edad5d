"""How fast a meshed call is, beside the same call without a mesh. See `python -m bench --help`."""
