# guidsvc, as a user without rights, on a file system of which it writes only /data and /tmp.
#   docker build -t guidsvc .
#   docker run --read-only --tmpfs /tmp --volume guidsvc:/data --publish 127.0.0.1:8888:8888 guidsvc serve --access off --hosts localhost

# The images are named by tags, which move: no registry of images could be asked for digests when this was written. To pin one:
#   docker buildx imagetools inspect python:3.13-slim      then: FROM python:3.13-slim@sha256:...
# What is installed is pinned and checked by its hashes. Wheels only: to build a source, pip would fetch tools that no hash is known of.
FROM python:3.13-slim AS build
WORKDIR /src
COPY requirements.txt ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.txt
COPY requirements-build.txt ./
RUN pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.txt
COPY pyproject.toml ./
COPY README.md ./
COPY LICENSE ./
COPY guidsvc ./guidsvc
COPY guidsvc_client ./guidsvc_client
RUN python -m hatchling build -t wheel -d /dist && cd guidsvc_client && python -m hatchling build -t wheel -d /dist
RUN /venv/bin/pip install --no-cache-dir --no-index --no-deps /dist/*.whl && /venv/bin/python -m compileall -q /venv/lib

FROM python:3.13-slim
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=
LABEL org.opencontainers.image.title="guidsvc"
LABEL org.opencontainers.image.description="An async REST service that keeps a registry of GUIDs that expire"
LABEL org.opencontainers.image.licenses="MIT"
LABEL org.opencontainers.image.version="$VERSION"
LABEL org.opencontainers.image.revision="$REVISION"
LABEL org.opencontainers.image.source="$SOURCE"
RUN groupadd --gid 10001 guidsvc \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin guidsvc \
    && install --directory --owner=10001 --group=10001 --mode=0750 /data
COPY --from=build /venv /venv
# By number, so that Kubernetes can check that it is not root.
USER 10001:10001
VOLUME /data
# Where the default, sqlite:///guidsvc.db, is then; it is no variable here, which would stand in the way of its _FILE.
WORKDIR /data
ENV PATH=/venv/bin:$PATH
ENV PYTHONUNBUFFERED=1 GUIDSVC_HOST=0.0.0.0 GUIDSVC_PORT=8888
EXPOSE 8888
STOPSIGNAL SIGTERM
# Alive, not ready: what restarts containers must not do so because the database is away.
HEALTHCHECK --interval=10s --timeout=10s --start-period=10s CMD ["guidsvc", "healthcheck"]
# Flags alone serve, too: docker run guidsvc --port 9000. Other words are other commands: docker run guidsvc keys list.
ENTRYPOINT ["guidsvc"]
CMD ["serve"]
