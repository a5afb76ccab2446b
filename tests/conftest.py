"""How the tests run: surprises on a laptop, none in CI."""

from __future__ import annotations

import os

from hypothesis import settings

# A new counterexample belongs to who looks for it, not to whose change happens to be tested.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("laptop", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "laptop")

#: What the tests themselves are asked by; every other variable of ours would set the product.
OURS = ("REAL_DATA", "REAL_REFERENCE", "TEST_WEIGHTS", "ENGINE_PYTHON", "KILLS", "SERVERS")
for name in [name for name in os.environ if name.startswith("TOMODEX_")]:
    if name.removeprefix("TOMODEX_") not in OURS:
        del os.environ[name]
