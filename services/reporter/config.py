"""The reporter's section of `policy.yaml`."""

from __future__ import annotations

from shared.config import Config


class Policy(Config):
    """Nothing to choose yet: which reports a run needs is the gatekeeper's section."""
