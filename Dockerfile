# One image for every process: services, set-up and operator's tools differ only in their command.
FROM python:3.13-slim AS build
COPY requirements.txt .
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary=:all: -r requirements.txt

FROM python:3.13-slim
RUN useradd --system --uid 10001 --no-create-home tandem
COPY --from=build /venv /venv
WORKDIR /tandem
COPY common common
COPY order order
COPY payment payment
COPY inventory inventory
COPY ops ops
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ADMIN_PORT=9000
USER tandem
# On the instance's admin port. The answer says what is missing, and `docker inspect` shows it.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['ADMIN_PORT'] + '/readyz')"]
