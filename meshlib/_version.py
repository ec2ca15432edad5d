"""The version, alone in a file so that build and run time read the same line."""

__version__ = "0.1.0"
