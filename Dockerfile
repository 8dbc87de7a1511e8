# The sidecar image: runs as a user without privileges, on a read-only root file system, with one volume for its state.
#
#   docker build -t maintd .
#
# BASE can be any Debian image in which `python3` is Python 3.11 or later.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_LINK_MODE=copy UV_PROJECT_ENVIRONMENT=/opt/maintd
WORKDIR /src
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --quiet "uv>=0.5" && python3 -m venv /opt/maintd
# The dependencies change less often than maintd, so they have a layer of their own.
COPY pyproject.toml uv.lock README.md CHANGELOG.md ./
RUN /opt/uv/bin/uv sync --frozen --no-dev --no-install-project --inexact --compile-bytecode --no-cache
COPY schedules.yaml LICENSE ./
COPY deploy ./deploy
COPY docs ./docs
COPY jobs ./jobs
COPY maintd ./maintd
# The build describes the shipped jobs, so that the first start of a container is as fast as later ones. It runs without
# isolation: the descriptions are used only with the library versions that they were computed with.
RUN /opt/uv/bin/uv pip install --quiet --no-cache --python /opt/maintd/bin/python "hatchling>=1.25" \
 && /opt/uv/bin/uv sync --frozen --no-dev --no-editable --inexact --compile-bytecode --no-cache \
    --no-build-isolation-package maintd \
 && /opt/uv/bin/uv pip uninstall --quiet --python /opt/maintd/bin/python hatchling pathspec trove-classifiers

FROM ${BASE}
# The servers that restore_drill restores into. Without them (--build-arg RESTORE_PROGRAMS=) a drill is unknown, and the
# image is smaller. Their version must be that of the stack's Postgres or later. The locale is the default of the official
# Postgres image.
ARG RESTORE_PROGRAMS="postgresql redis-server"
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends tini gpg gpg-agent postgresql-client \
 && if [ -n "${RESTORE_PROGRAMS}" ]; then \
      apt-get install -y -qq --no-install-recommends postgresql-common \
   && sed -i 's/^#* *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf \
   && apt-get install -y -qq --no-install-recommends ${RESTORE_PROGRAMS} \
   && localedef -i en_US -c -f UTF-8 en_US.UTF-8; fi \
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
# Healthy means that the daemon plans and reaches its store. A failed job does not make the container unhealthy.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["maintd", "status", "--quiet"]
# tini forwards signals and reaps processes that jobs leave behind.
ENTRYPOINT ["tini", "--"]
CMD ["maintd", "serve"]
