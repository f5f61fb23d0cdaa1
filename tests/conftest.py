"""Settings of all tests."""

from hypothesis import settings

# Time limits per example say more about the machine's load than about the code.
settings.register_profile("lynxstop", deadline=None)
settings.load_profile("lynxstop")
