"""Files of a Hugging Face repository, fetched so that a broken download can go on, and checked before use.

The listing and the transfer are `huggingface_hub`'s. Its own download function throws a partial file away
when the process ends, so the file it fills here is ours: `.<name>.<checksum>.part` beside the target, which
the next call goes on with. In its place, a file has the size and the checksum that the repository states, and
an h5 file of a data set reads as frames. The transfer is plain HTTP, whatever the storage behind it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from shared.datasets.hub import Remote, Repository, explained, matching, megabytes
from shared.datasets.mapping import open_frames
from shared.datasets.progress import Progress
from shared.errors import DatasetError

BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is in its place."""

    path: Path
    size_bytes: int
    transferred_bytes: int
    """What came now; less than the size if the download went on, 0 if the file was there already."""


def download(
    repository: Repository,
    pattern: str,
    into: Path,
    *,
    endpoint: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Fetched]:
    """Fetch the files whose names match.

    Args:
        repository: Which.
        pattern: As in a shell: `zelda_frames.h5`, `*_frames.h5`, `sonic/*`.
        into: Directory; a file keeps its path in the repository below it.
        endpoint: Address of the hub; none is `HF_ENDPOINT`, else the public one.
        overwrite: Replace a file that is there with other content.
        progress: Called with bytes done and to do, over all files.

    Raises:
        DatasetError: huggingface_hub is not installed, the hub cannot be reached or refuses, nothing matches,
            the transfer broke off or brought something else than the repository states, the disk is full, or
            a file is there already with other content. The text says what can be done.
    """
    found = matching(repository, pattern, endpoint)
    total, before = sum(remote.size for remote in found), 0
    fetched = []
    for remote in found:
        target = into / remote.name

        def told(done: int, before: int = before) -> None:
            if progress:
                progress(before + done, total)

        with _on_disk(target):
            exists, there = target.exists(), target.is_file() and _is(target, remote)
        if there:
            fetched.append(Fetched(target, remote.size, 0))
        elif exists and not overwrite:
            raise DatasetError(
                f"{target}: exists already, and is not what {repository} has. Remove it, or use --overwrite"
            )
        else:
            fetched.append(_fetch(repository, remote, target, told))
        before += remote.size
        told(0, before)
    return fetched


def _fetch(repository: Repository, remote: Remote, target: Path, told: Any) -> Fetched:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars

    part = target.with_name(f".{target.name}.{remote.checksum[:12]}.part")
    with _on_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        begun = part.stat().st_size if part.is_file() else 0
        if begun > remote.size:
            part.unlink()
            begun = 0
        free = shutil.disk_usage(target.parent).free
    if free < remote.size - begun:
        raise DatasetError(
            f"{target}: {megabytes(remote.size - begun)} are to come, and the disk has {megabytes(free)}. "
            "Free some, or name another place with --into"
        )
    disable_progress_bars("huggingface_hub.http_get")
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    with (
        _useful(part, remote),
        explained(repository, remote.url, part=part, size=remote.size),
        part.open("ab") as stream,
    ):
        http_get(
            remote.url,
            _Counted(stream, told, limit=remote.size),
            resume_size=begun,
            headers=headers,
            expected_size=remote.size,
        )
    with _on_disk(target):
        if not _is(part, remote):
            part.unlink()
            raise DatasetError(
                f"{target}: what came has another checksum than {repository} states for it, and was thrown "
                "away. Run the command again; if it happens again, the mirror or a proxy changes files"
            )
        if repository.kind == "dataset" and target.suffix == ".h5":
            _check_frames(repository, remote, part)
        part.replace(target)
    return Fetched(target, remote.size, remote.size - begun)


@contextmanager
def _useful(part: Path, remote: Remote) -> Iterator[None]:
    """After an error, no part is left that cannot be gone on with."""
    try:
        yield
    except BaseException:
        if part.is_file() and not 0 < part.stat().st_size <= remote.size:
            part.unlink()
        raise


class _Counted:
    """A file that tells how far it is filled, and takes no more than it is to hold."""

    def __init__(self, stream: IO[bytes], told: Any, *, limit: int) -> None:
        self._stream, self._told, self._limit = stream, told, limit
        self.tell, self.seek, self.truncate = stream.tell, stream.seek, stream.truncate
        told(stream.tell())

    def write(self, content: bytes) -> None:
        self._stream.write(content)
        if self._stream.tell() > self._limit:
            raise OSError("more came than was stated")  # as http_get, which looks at the end only
        self._told(self._stream.tell())


def _check_frames(repository: Repository, remote: Remote, part: Path) -> None:
    try:
        with open_frames(part):
            pass
    except DatasetError as error:
        part.unlink()
        raise DatasetError(
            f"{remote.name}: came whole from {repository}, but is no frames file: {error}"
        ) from error


def _is(path: Path, remote: Remote) -> bool:
    if path.stat().st_size != remote.size:
        return False
    if len(remote.checksum) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % remote.size, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest() == remote.checksum


@contextmanager
def _on_disk(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"{target}: cannot be written ({error}). Free disk space or name another place"
        ) from error
