"""How much is tried: a few examples, always the same, in `make test`; many new ones in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings


def tries(share: float = 1) -> settings:
    """Settings of a test that tries `share` times WORLDLOOP_FUZZ_EXAMPLES."""
    return settings(
        max_examples=round(share * int(os.environ.get("WORLDLOOP_FUZZ_EXAMPLES", "25"))),
        derandomize="WORLDLOOP_FUZZ_EXAMPLES" not in os.environ,  # what a change broke is seen at the change
        phases=[Phase.explicit, Phase.generate],  # the damage that is shown is short as it is
        suppress_health_check=list(HealthCheck),
    )
