"""torchrun that ends as soon as it is over: `python -m services.trainer.torchrun`.

On a busy machine Python takes seconds to take torch apart, and when a rank has died the trainer waits for it.
"""

from __future__ import annotations

import os
import sys
import traceback


def main() -> None:
    """Run it, and end at once when it is over."""
    from torch.distributed.run import main as torchrun

    code = 0
    try:
        torchrun()
    except BaseException:  # noqa: BLE001 - as Python does it, its ranks' failures among them
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
