"""A checkout as its files are: what its scripts take, how they count, and how they are started. Only read."""

from __future__ import annotations

from pathlib import Path

import yaml

from services.trainer.core.checkout import dialect, loss, schema
from services.trainer.core.checkout.dialect import Dialect
from shared import safe_yaml
from shared.checkout import config, script
from shared.datasets.names import GAMES, game_of
from shared.errors import ConfigurationError
from shared.events import CheckoutSpec, Stage


class Repository:
    """The checkout of a run.

    Args:
        spec: Where it lies and what runs it.
    """

    def __init__(self, spec: CheckoutSpec) -> None:
        self.spec, self.root = spec, Path(spec.directory)

    def dialect(self, stage: Stage) -> Dialect | None:
        """How the stage's script says that it counts, none if that cannot be told from its source.

        Raises:
            ConfigurationError: The script is missing.
        """
        return dialect.by_source(self._read(script(stage)))

    def divides_loss(self, stage: Stage) -> bool:
        """Whether the stage's script logs its loss divided by the accumulation.

        Raises:
            ConfigurationError: The script is missing.
        """
        return loss.is_divided(self._read(script(stage)))

    def keys(self, stage: Stage) -> frozenset[str]:
        """Dotted keys of the stage's schema: of the class that its script loads, else of its file.

        Raises:
            ConfigurationError: A file is missing or broken.
        """
        for name, module in schema.imported_configs(self._read(script(stage))).items():
            source = f"{module.replace('.', '/')}.py"
            if not (self.root / source).is_file():
                continue
            found = schema.keys_of(self._read(source), name)
            if dialect.TARGET in found:
                return found
        path = config(stage)
        try:
            content = safe_yaml.load(self._read(path))
        except yaml.YAMLError as error:
            raise ConfigurationError(str(self.root / path), "", f"no YAML: {error}", "Correct it") from None
        return schema.keys_of_file(content if isinstance(content, dict) else {})

    def dataset(self, configured: str) -> str:
        """TinyWorlds' name for the configured dataset, which it reads from its own `data/`.

        Args:
            configured: A name or a file.

        Raises:
            ConfigurationError: The checkout knows no such dataset, or the file is another than its own.
        """
        game = configured.upper() if configured.upper() in GAMES else game_of(Path(configured)).upper()
        own = self.root / "data" / f"{game.lower()}_frames.h5"
        given = Path(configured)
        same = not given.is_absolute() or not own.exists() or (given.exists() and own.samefile(given))
        if game in GAMES and same:
            return game
        raise ConfigurationError(
            f"--checkout {self.root}",
            "training.dataset",
            f"{configured} is not what the checkout trains on, which is data/<name>_frames.h5 of its own",
            f"Put the file there, or link it, and give --dataset {' or '.join(GAMES)}",
        )

    def _read(self, name: str) -> str:
        try:
            return (self.root / name).read_text(errors="replace")
        except OSError as error:
            raise ConfigurationError(
                f"--checkout {self.root}",
                "",
                f"{name} cannot be read: {error.strerror}",
                "Give the repository's root",
            ) from None
