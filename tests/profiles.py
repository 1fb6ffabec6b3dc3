"""How much the tests try: the environment's `HYPOTHESIS_PROFILE` is `fast`, `default` or `long`.

CONTRIBUTING.md says what each is for.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
FAST = PROFILE == "fast"
LONG = PROFILE == "long"

slow = pytest.mark.skipif(FAST, reason="slow: `make test` has it")

_LONG_EXAMPLES = 20_000

# The numbers of examples are for tests that name none.
_DEFAULT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], report_multiple_bugs=False)
settings.register_profile("default", _DEFAULT)
settings.register_profile("fast", _DEFAULT, max_examples=20)
settings.register_profile("long", _DEFAULT, max_examples=_LONG_EXAMPLES)
settings.load_profile(PROFILE)


def examples(default: int, *, long: int = _LONG_EXAMPLES) -> int:
    """Return how many examples a test makes: a twentieth of its everyday number in the fast profile."""
    if LONG:
        return long
    return max(default // 20, 5) if FAST else default
