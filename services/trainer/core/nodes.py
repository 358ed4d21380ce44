"""What the deaths of a launch's parts on several hosts mean together."""

from __future__ import annotations

from collections.abc import Iterable

from services.trainer.core.ends import Death


def together(deaths: Iterable[Death]) -> Death:
    """Why a launch is gone, from what each host saw of it.

    One part that ends takes the others with it, since their ranks lose the connection (`peer`): what the part
    says that ended for a reason of its own holds. Where none has one, a host or the network between them went
    away, which is the fault of nothing but the surroundings.

    Args:
        deaths: Of the hosts that said something.

    Returns:
        `oom`, `failed` or `killed`.
    """
    found = set(deaths)
    return "oom" if "oom" in found else "failed" if "failed" in found else "killed"
