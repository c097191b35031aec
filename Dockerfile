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
USER guidsvc
VOLUME /data
# Where the default, sqlite:///guidsvc.db, is then; it is no variable here, which would stand in the way of its _FILE.
WORKDIR /data
ENV PYTHONUNBUFFERED=1 GUIDSVC_HOST=0.0.0.0 GUIDSVC_PORT=8888
EXPOSE 8888
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/venv/bin/python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['GUIDSVC_PORT'] + '/readyz', timeout=2)"]
CMD ["/venv/bin/python", "/app/pdapt.py"]
