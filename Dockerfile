# maintd as a sidecar: slim, not root, a read-only root file system with one volume for its state.
#
#   docker build -t maintd .
#
# BASE is any Debian with Python 3.11 or later as `python3`.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/maintd
WORKDIR /src
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet "uv>=0.5" && python3 -m venv /opt/maintd
# What maintd depends on changes less often than maintd: a layer of its own.
COPY pyproject.toml uv.lock README.md CHANGELOG.md ./
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-install-project --inexact --compile-bytecode --no-cache
COPY schedules.yaml ./
COPY jobs ./jobs
COPY maintd ./maintd
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-editable --inexact --compile-bytecode --no-cache

FROM ${BASE}
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 maintd \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/maintd --shell /usr/sbin/nologin maintd \
 && install -d -o maintd -g maintd -m 0750 /var/lib/maintd
COPY --from=build /opt/maintd /opt/maintd
ENV PATH=/opt/maintd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MAINTD_STATE_DIR=/var/lib/maintd \
    MAINTD_LOG_FORMAT=json
USER 10001:10001
WORKDIR /var/lib/maintd
VOLUME /var/lib/maintd
# The daemon's own health: its loop turns and its store answers. A failed job does not make the container unhealthy.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["maintd", "status", "--quiet"]
# tini reaps what attempts leave behind and passes signals on.
ENTRYPOINT ["tini", "--"]
CMD ["maintd", "serve"]
