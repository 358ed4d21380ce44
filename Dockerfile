# Images of the five services, each with its own extra and nothing more; compose.yaml builds them. By hand:
#
#   docker build --target service --build-arg SERVICE=monitor --tag worldloop-monitor .
#   docker build --target service --build-arg SERVICE=trainer --build-arg BASE=torch --tag worldloop-trainer .
#
# Nothing is fetched but the base images and what pip finds in the package index of its own settings.

ARG PYTHON_IMAGE=python:3.11-slim
# Any image whose python3 has torch, at least the version that pyproject.toml asks for.
ARG TORCH_IMAGE=pytorch/pytorch:2.13.0-cuda12.6-cudnn9-runtime
ARG NATS_IMAGE=nats:2.12-alpine
# What a service stands on: light, or torch for trainer and inference.
ARG BASE=light

# --- worldloop as a wheel, and what its parts need ---------------------------------------------------------
FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY docker/requirements.py docker/
RUN mkdir /need && grep -v '^torch==' constraints.txt > /need/constraints.txt \
    && for part in core gatekeeper monitor reporter trainer inference keys; do \
        python3 docker/requirements.py "$part" > "/need/$part.txt" || exit 1; \
    done
COPY configs configs
COPY shared shared
COPY services services
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip wheel --quiet --no-deps --wheel-dir /wheel .

FROM ${PYTHON_IMAGE} AS light

FROM ${TORCH_IMAGE} AS torch

# --- what all services share: the user, the places to write to, the core's packages ------------------------
FROM ${BASE} AS core
# A named volume takes owner and mode from the directory it is first mounted over.
RUN useradd --uid 10001 --user-group --home-dir /state --no-create-home --shell /usr/sbin/nologin worldloop \
    && for place in state cache runs data keys; do install -d -o 10001 -g 10001 -m 0755 "/$place"; done
RUN --mount=type=bind,from=wheel,source=/need,target=/need \
    --mount=type=bind,source=docker/install.sh,target=/install.sh \
    --mount=type=cache,target=/root/.cache/pip \
    sh /install.sh core
ENV WORLDLOOP_STATE_DIR=/state \
    WORLDLOOP_CACHE_DIR=/cache \
    WORLDLOOP_OUTPUT_ROOT=/runs \
    WORLDLOOP_DATA_DIR=/data \
    WORLDLOOP_NOTIFY_FILE=/etc/worldloop/notify.yaml

# --- one service -------------------------------------------------------------------------------------------
FROM core AS service
ARG SERVICE
RUN --mount=type=bind,from=wheel,source=/need,target=/need \
    --mount=type=bind,source=docker/install.sh,target=/install.sh \
    --mount=type=cache,target=/root/.cache/pip \
    sh /install.sh "$SERVICE"
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --no-cache-dir --root-user-action ignore --no-deps /wheel/*.whl
ENV SERVICE=${SERVICE} HOME=/state
USER 10001:10001
WORKDIR /state
# A service touches its file every two seconds, as long as it is connected to the bus.
HEALTHCHECK --interval=5s --timeout=5s --start-period=90s --retries=3 \
    CMD find "/state/$SERVICE.alive" -newermt '-20 seconds' | grep -q .
CMD exec python3 -m "services.$SERVICE.main"

# --- what makes the keys: `SERVICE=keys` -------------------------------------------------------------------
FROM service AS keys
COPY --chmod=0555 docker/keys.sh /usr/local/bin/make-keys
USER root
RUN for owner in all nats gatekeeper trainer monitor inference reporter operator; do \
        install -d -o 10001 -g 10001 -m 0700 "/keys/$owner"; \
    done
USER 10001:10001
HEALTHCHECK NONE
CMD ["make-keys"]

# --- the server, with its configuration --------------------------------------------------------------------
FROM ${NATS_IMAGE} AS nats
COPY --chmod=0444 docker/nats.conf /etc/nats/nats-server.conf
RUN mkdir /store /keys && chown 10001:10001 /store /keys
USER 10001:10001
