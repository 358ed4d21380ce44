#!/bin/sh
# In a build: installs what a part of worldloop needs into the base's own Python.
#
# The versions are those of constraints.txt, but for torch: the base's own is pinned as it is, so that nothing
# takes its place; a part that cannot use it ends the build here.
set -eu
part=$1

python3 -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' >/tmp/torch.txt 2>/dev/null || true
PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --root-user-action ignore --disable-pip-version-check \
    --constraint /need/constraints.txt --constraint /tmp/torch.txt --requirement "/need/$part.txt"

if [ ! -s /tmp/torch.txt ]; then # in a light image every file counts: other packages' tests, and numpy's build tools
    find "$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" -type d \
        \( -name tests -o -path '*/numpy/f2py' -o -path '*/numpy/distutils' \) -prune -exec rm -rf {} +
fi
rm /tmp/torch.txt
