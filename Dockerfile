# guidsvc, as a user without rights, on a file system that it need not write but for /data.

# The images are named by tags, which move: no registry of images could be asked for digests when this was written. To pin one:
#   docker buildx imagetools inspect python:3.13-slim      then: FROM python:3.13-slim@sha256:...
# What is installed is pinned and checked by its hashes. Wheels only: to build a source, pip would fetch tools that no hash is known of.
FROM python:3.13-slim AS build
COPY requirements.txt .
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements.txt

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home guidsvc && install --directory --owner=guidsvc /data
COPY --from=build /venv /venv
WORKDIR /app
COPY pdapt.py ./
COPY guidsvc ./guidsvc
RUN chmod -R a+rX /app && /venv/bin/python -m compileall -q /app
# The command `guidsvc`: alone it is the service; `guidsvc keys --help` and others work on its store and settings.
RUN printf '#!/bin/sh\nexec /venv/bin/python /app/pdapt.py "$@"\n' > /usr/local/bin/guidsvc && chmod 755 /usr/local/bin/guidsvc
USER guidsvc
VOLUME /data
# Where the default, sqlite:///guidsvc.db, is then; it is no variable here, which would stand in the way of its _FILE.
WORKDIR /data
ENV PYTHONUNBUFFERED=1 GUIDSVC_HOST=0.0.0.0 GUIDSVC_PORT=8888
EXPOSE 8888
STOPSIGNAL SIGTERM
# Alive, not ready: what restarts containers must not do so because the database is away.
HEALTHCHECK --interval=10s --timeout=10s --start-period=10s CMD ["guidsvc", "healthcheck"]
ENTRYPOINT ["guidsvc"]
