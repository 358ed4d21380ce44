"""What is in the images: little, torch only where it belongs, and nothing secret."""

from __future__ import annotations

import gzip
import json
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from io import BufferedReader
from typing import IO

from docker.check.stack import SERVICES, Stack, hold, output, saw

MAX_MB = {"gatekeeper": 250, "monitor": 300, "reporter": 550}
"""Largest images, MB as Docker counts them; those that are named must not have torch."""
CHUNK = 8 << 20


def small(stack: Stack) -> None:
    """Small, and torch only where it belongs."""
    for service in SERVICES[1:]:
        size = int(stack.image(service)["Size"]) / 1e6
        look = "import importlib.util as u; print(u.find_spec('torch') is not None)"
        torch = stack.inside(service, "python3", "-c", look).strip() == "True"
        saw(f"image {service}: {size:.0f} MB, torch: {torch}")
        limit = MAX_MB.get(service)
        hold(torch == (limit is None), f"{service} has torch: {torch}")
        hold(limit is None or size < limit, f"{service} is larger than {limit} MB")


def without_secrets(stack: Stack) -> None:
    """Neither a key nor a secret of this host is in a layer, a build step or the environment of an image."""
    stack.compose("cp", "keys:/keys/all", str(stack.scratch / "all"))
    seeds = [path.read_text().strip() for path in (stack.scratch / "all").glob("*.nk")]
    private = [path.read_text().splitlines()[1] for path in (stack.scratch / "all").glob("*-key.pem")]
    token = (stack.keys / "page-token").read_text().strip()
    secrets = [each.encode() for each in (stack.marker, token, *seeds, *private)]
    images = sorted({stack.inspect(service)["Image"] for service in (*SERVICES, "keys")})
    for image in images:
        told = output("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
        told += json.dumps(json.loads(output("docker", "inspect", image))[0]["Config"])
        hold(not any(each in told.encode() for each in secrets), f"{image} tells a secret in its history")
    with subprocess.Popen(["docker", "image", "save", *images], stdout=subprocess.PIPE) as saving:
        assert saving.stdout is not None
        searched = search(saving.stdout, secrets)
    hold(saving.returncode == 0, "docker image save failed")
    where = f"{searched / 1e6:.0f} MB of layers, history and environment"
    saw(f"{len(images)} images: none of {len(secrets)} secrets in {where}")


def search(archive: IO[bytes], secrets: Sequence[bytes]) -> int:
    """Look through all files of what `docker image save` writes, layers among them.

    Returns:
        Bytes looked at.

    Raises:
        Broken: One of the secrets is there.
    """
    searched = 0
    with tarfile.open(fileobj=archive, mode="r|") as files:
        for member in files:
            if not member.isfile():
                continue
            content = files.extractfile(member)
            assert isinstance(content, BufferedReader)
            end = b""
            for chunk in _chunks(content):
                searched += len(chunk)
                hold(not any(each in end + chunk for each in secrets), f"a secret is in {member.name}")
                end = chunk[-max(map(len, secrets)) :]
    return searched


def _chunks(content: BufferedReader) -> Iterator[bytes]:
    """A file piece by piece, unpacked if it is a compressed layer."""
    packed = content.peek(2).startswith(b"\x1f\x8b")
    stream: IO[bytes] | gzip.GzipFile = gzip.GzipFile(fileobj=content) if packed else content
    while chunk := stream.read(CHUNK):
        yield chunk
