# One image for every process: services, set-up and operator's tools differ only in their command.
FROM python:3.13-slim AS build
WORKDIR /build
# requirements-otel.txt: the same, and what tracing needs.
ARG REQUIREMENTS=requirements.txt
COPY ${REQUIREMENTS} requirements.txt
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary=:all: -r requirements.txt

FROM python:3.13-slim
RUN groupadd --system --gid 10001 tandem && useradd --system --uid 10001 --gid 10001 --no-create-home tandem
COPY --from=build /venv /venv
WORKDIR /tandem
COPY common common
COPY order order
COPY payment payment
COPY inventory inventory
COPY ops ops
# COPY keeps the modes of the checkout, and under umask 077 those are closed to the user below.
RUN chmod -R a+rX .
# New volumes take over the owner and the mode of these folders.
RUN mkdir --mode=700 auth issuer && chown tandem auth issuer
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ADMIN_PORT=9000
# By number, so that an orchestrator can see that it is not root. It owns no file, it only reads them.
USER 10001:10001
# Asks the instance's admin port what is missing, and `docker inspect` shows it.
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-m", "common.http.ready"]
