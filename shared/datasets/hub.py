"""A Hugging Face repository: what is in it, and what went wrong with it, in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

from shared.errors import DatasetError

LIST_TIMEOUT_SEC = 30.0
CHECKSUM = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


class Repository(NamedTuple):
    """Where files come from."""

    name: str
    kind: Literal["dataset", "model"]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


DATASETS = Repository("AlmondGod/tinyworlds", "dataset")
"""TinyWorlds' frames files."""
MODELS = Repository("AlmondGod/tinyworlds-models", "model")
"""TinyWorlds' trained checkpoints."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file of a repository, at the commit that was listed."""

    name: str
    url: str
    size: int
    """Bytes."""
    checksum: str
    """SHA-256 of the content (64 digits), or Git's blob id (40)."""


def matching(repository: Repository, pattern: str, endpoint: str | None) -> list[Remote]:
    """The files whose names match a shell pattern, by name.

    Raises:
        DatasetError: huggingface_hub is not installed, the hub cannot be reached or refuses, or nothing
            matches; then the text says what there is.
    """
    hub = _hub(repository)
    api = hub.HfApi(endpoint=endpoint)
    with explained(repository, api.endpoint):
        info = api.repo_info(
            repository.name, repo_type=repository.kind, files_metadata=True, timeout=LIST_TIMEOUT_SEC
        )
        listed = {file.rfilename: file for file in info.siblings or ()}
        names = sorted(name for name in listed if fnmatchcase(name, pattern))
        if not names:
            there = ", ".join(sorted(listed)) or "nothing"
            raise DatasetError(f"{pattern}: matches no file of {repository}. It has: {there}")
        found = []
        for name in names:
            file = listed[name]
            checksum = (file.lfs.sha256 if file.lfs else file.blob_id) or ""
            if not (_is_path(name) and CHECKSUM.fullmatch(checksum) and _is_size(file.size)):
                raise DatasetError(
                    f"{name!r}: {api.endpoint} lists it without size and checksum, or under a path that "
                    "cannot be used. If HF_ENDPOINT names a mirror, take another"
                )
            url = hub.hf_hub_url(
                repository.name, name, repo_type=repository.kind, revision=info.sha, endpoint=api.endpoint
            )
            found.append(Remote(name, url, file.size, checksum))
    return found


def _is_path(name: str) -> bool:
    """Whether a name leads to a file below a directory, and only there."""
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def _is_size(size: object) -> bool:
    return isinstance(size, int) and size >= 0


@contextmanager
def explained(
    repository: Repository, address: str, *, part: Path | None = None, size: int = 0
) -> Iterator[None]:
    """Errors of the hub's library as ours.

    Args:
        repository: What is asked for.
        address: Of the hub or the file.
        part: Where a transfer goes, if there is one.
        size: Bytes it will have.

    Raises:
        DatasetError: Instead of what the library raised; it says what was kept of a transfer.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except RepositoryNotFoundError as error:
        raise DatasetError(
            f"{repository}: not found at {address}. If HF_ENDPOINT is set, does it name a hub that has it?"
        ) from error
    except EntryNotFoundError as error:
        raise DatasetError(f"{address}: was listed, but is not there. Run the command again") from error
    except OfflineModeIsEnabled as error:
        raise DatasetError(f"{repository}: HF_HUB_OFFLINE forbids the network. Unset it") from error
    except HfHubHTTPError as error:
        raise DatasetError(
            f"{address}: answered {error.response.status_code} {error.response.reason_phrase}."
            f"{_kept(part, size)} Try again later, or set HF_ENDPOINT to a mirror"
        ) from error
    except HTTPError as error:
        raise DatasetError(
            f"{address}: cannot be reached, or broke off ({type(error).__name__}: {error})."
            f"{_kept(part, size)} Is there a network? HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy; a "
            "file brought by hand does as well"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{address}: does not answer as a Hugging Face hub ({error}). Correct HF_ENDPOINT, or look "
            "whether a proxy answers in its place"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise DatasetError(
                f"{part}: cannot be written ({error}). Free disk space or name another place"
            ) from error
        raise DatasetError(
            f"{address}: sent another size than {repository} states, {megabytes(size)}.{_kept(part, size)} "
            "If that does not help, the mirror or a proxy changes files"
        ) from error


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:,.1f} MB"


def _kept(part: Path | None, size: int) -> str:
    came = part.stat().st_size if part and part.is_file() else 0
    if not 0 < came <= size:
        return ""
    return (
        f" {megabytes(came)} of {megabytes(size)} are kept: run the same command again, and it goes on there."
    )


def _hub(repository: Repository) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise DatasetError(
            f"{repository}: downloading needs huggingface-hub. Install it: pip install 'worldloop[data]'"
        ) from error
    return huggingface_hub
