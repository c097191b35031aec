# guidsvc, as a user without rights, on a file system that it need not write.

FROM python:3.13-slim AS build
COPY requirements.txt .
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-virtualenv -r requirements.txt

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home guidsvc
COPY --from=build /venv /venv
WORKDIR /app
COPY pdapt.py ./
COPY guidsvc ./guidsvc
RUN /venv/bin/python -m compileall -q /app
USER guidsvc
ENV PYTHONUNBUFFERED=1 GUIDSVC_HOST=0.0.0.0
EXPOSE 8888
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/venv/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8888/readyz', timeout=2)"]
CMD ["/venv/bin/python", "pdapt.py"]
