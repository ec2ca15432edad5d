"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# Hypothesis measures real time and fails an example that took 0.2 s: on a busy machine any of them may.
settings.register_profile("meshlib", deadline=None)
settings.load_profile("meshlib")
