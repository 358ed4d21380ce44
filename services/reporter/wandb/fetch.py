"""Fetches W&B runs through `wandb.Api`: a program, `python -m services.reporter.wandb.fetch ASKED.json`.

wandb 0.31 talks to W&B through a helper process of its own, keeps global state, takes the places it writes
to from the environment, and reads of a history have no time limit. As a process this can be confined and
ended.

What is asked for is `{"folder", "timeout", "runs": {id: path}}`; of each run it writes `<folder>/<id>.jsonl`:
a line with address, state, configuration and summary, then a line for each row. A run that cannot be had has
the single line `{"problem"}` there. It ends when its standard input does: whoever asked is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

FLUSH_ROWS = 500
"""Rows after which a reader of the file sees that it goes on."""


def main() -> None:
    """Fetch what the file that the argument names asks for."""
    asked = json.loads(Path(sys.argv[1]).read_bytes())
    threading.Thread(target=_end_with_the_asker, daemon=True).start()
    folder = Path(asked["folder"])
    api: Any = None
    for run_id, path in asked["runs"].items():
        target = folder / f"{run_id}.jsonl"
        try:
            if api is None:
                api = _api(asked["timeout"])
            _fetch(api, path, target)
        except Exception as error:  # noqa: BLE001 - whatever wandb raises is the answer
            target.write_text(json.dumps({"problem": _said(error, api)}) + "\n", encoding="utf-8")


def _api(timeout: int) -> Any:
    import wandb

    return wandb.Api(timeout=timeout)


def _fetch(api: Any, path: str, target: Path) -> None:
    run = api.run(path)
    head = {
        "url": run.url,
        "state": run.state,
        "config": dict(run.config),
        "summary": dict(run.summary_metrics),
    }
    part = target.with_suffix(".part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(head) + "\n")
        stream.flush()
        for count, row in enumerate(run.scan_history(), 1):
            stream.write(json.dumps(row) + "\n")
            if count % FLUSH_ROWS == 0:
                stream.flush()
    part.rename(target)


def _said(error: Exception, api: Any) -> str:
    """An error in one line, without the key."""
    text = " ".join(str(error).split()) or type(error).__name__
    for key in filter(None, (os.environ.get("WANDB_API_KEY"), getattr(api, "api_key", None))):
        text = text.replace(key, "***")
    return text[:500]


def _end_with_the_asker() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
