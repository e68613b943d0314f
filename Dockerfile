# One image for every service and for the `penstock` command. Build it with `docker build -t penstock .`; docs/compose.md says how to
# build it reproducibly, and how to list what is in it. `.ci/image` runs these very steps where no Docker is.
ARG BASE=debian:12.14-slim@sha256:60eac759739651111db372c07be67863818726f754804b8707c90979bda511df

FROM ${BASE} AS build
ARG SOURCE_DATE_EPOCH=0
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 python3-venv
WORKDIR /src
# what builds and installs, apart from what runs
COPY requirements-build.lock ./
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements-build.lock
COPY requirements.lock ./
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --require-hashes --wheel-dir /wheels -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY shared/ shared/
COPY ingest/ ingest/
COPY router/ router/
COPY functions_runtime/ functions_runtime/
COPY loader/ loader/
COPY connector_runner/ connector_runner/
COPY penstock/ penstock/
COPY deploy/ deploy/
COPY compose.yaml ./
RUN /opt/build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python3 -m venv --without-pip /opt/penstock \
 && /opt/build/bin/pip --python /opt/penstock/bin/python install --no-compile --no-deps --no-index /wheels/*.whl
# The list of all Python packages. And the root file system is read-only later, so Python cannot keep compiled modules: they are made
# here, and carry no time.
RUN /opt/build/bin/cyclonedx-py environment --output-reproducible --output-file /opt/penstock/sbom.json /opt/penstock/bin/python \
 && /opt/penstock/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/penstock/lib \
 && find /opt/penstock -exec touch --no-dereference --date "@${SOURCE_DATE_EPOCH}" {} +

FROM ${BASE}
ARG SOURCE_DATE_EPOCH=0
LABEL org.opencontainers.image.title="penstock" org.opencontainers.image.licenses="Apache-2.0"
# tini collects the children that a sandbox or a connector leaves behind
RUN apt-get update && apt-get upgrade -y && apt-get install -y --no-install-recommends ca-certificates python3 tini \
 && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/apt/* /var/cache/ldconfig/* \
 && echo 'penstock:x:10001:10001::/var/lib/penstock:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'penstock:x:10001:' >> /etc/group \
 && mkdir -p /var/lib/penstock/cache /var/lib/penstock/spool /var/lib/penstock/connectors \
 && chown -R 10001:10001 /var/lib/penstock
COPY --from=build /opt/penstock /opt/penstock
ENV PATH=/opt/penstock/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# connectors are installed there by uv, and what it keeps lies beside them: its usual place is read-only
ENV PENSTOCK_CONNECTOR_CACHE_DIR=/var/lib/penstock/connectors \
    UV_CACHE_DIR=/var/lib/penstock/connectors/uv UV_PYTHON_INSTALL_DIR=/var/lib/penstock/connectors/python
WORKDIR /var/lib/penstock
USER 10001:10001
# 8080 takes events, 9464 answers /live, /ready and /metrics
EXPOSE 8080 9464
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["python", "-m", "ingest"]
