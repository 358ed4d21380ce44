"""`make compose-check`: what docs/deployment.md promises of compose.yaml, seen on a machine with Docker.

In a fresh copy of the checkout: build, start, look at images and containers, train the demo from the host
with the operator's key while every service and the server are killed with kill -9, and replay the bundle.
Needs Docker Compose and root (the kills go by host pid: after `docker kill` Docker restarts nothing). Takes a
quarter of an hour on two cores, leaves nothing behind but base images and Docker's build cache, and exits
with 1 at the first broken promise.

    python -m docker.check RECORDING [WORDS for `worldloop train`, to train less than the demo]
"""
