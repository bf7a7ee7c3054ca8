# The server's image, for CPU (the default target) and TPU. What is installed is what uv.lock says.
#
#   docker build .                        CPU
#   docker build --target tpu .           TPU; tpu-baked: with the compiled programs in ./baked
#
# `--build-arg BASE=...` takes another image with Python 3.12, `--build-arg REVISION=...` notes the commit.
#
# It runs as a user without a name or a shell, from a read-only root: what it writes goes to /tmp and
# to /var/cache/antipode (compiled programs), which are mounts or tmpfs in the charts.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never
ENV UV_PROJECT_ENVIRONMENT=/opt/antipode
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.9
WORKDIR /src
COPY pyproject.toml uv.lock ./
COPY client/pyproject.toml client/
RUN /opt/uv/bin/uv sync --frozen --no-default-groups --no-install-workspace --extra otel

# The project after its dependencies: a change of code does not install them again.
FROM build AS build-cpu
# hadolint ignore=DL3008
RUN command -v g++ || { apt-get update && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*; }
COPY README.md LICENSE ./
COPY server server
COPY models models
RUN /opt/uv/bin/uv sync --frozen --no-default-groups --no-editable --extra otel
# The kernels for CPU, into the installed package; the compiler stays in this stage.
# hadolint ignore=DL3059
RUN /opt/antipode/bin/python -P -m models.cpu_kernels

FROM build AS build-tpu
RUN /opt/uv/bin/uv sync --frozen --no-default-groups --no-install-workspace --extra otel --extra tpu
COPY README.md LICENSE ./
COPY server server
COPY models models
RUN /opt/uv/bin/uv sync --frozen --no-default-groups --no-editable --extra otel --extra tpu

FROM ${BASE} AS runtime
ARG REVISION=""
LABEL org.opencontainers.image.title="antipode" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.description="A JAX inference server for TPU slices in two regions" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV ANTIPODE_HOST=0.0.0.0 \
    ANTIPODE_COMPILE_CACHE_DIR=/var/cache/antipode/xla \
    ANTIPODE_MODEL_ROOT=/var/cache/antipode/models \
    PYTHONDONTWRITEBYTECODE=1
RUN install -d -o 10001 -g 10001 /var/cache/antipode
WORKDIR /var/cache/antipode
USER 10001:10001
EXPOSE 8000 9000
ENTRYPOINT ["/opt/antipode/bin/python", "-P", "-m", "server"]
# Without other arguments the image serves the model that it carries.
CMD ["serve", "--model", "tiny"]
# For engines without probes of their own; in Kubernetes the chart's probes decide.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m \
    CMD ["/opt/antipode/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]

FROM runtime AS tpu
COPY --from=build-tpu /opt/antipode /opt/antipode

# With what `antipode plan --bake baked` compiled, so that a pod compiles nothing.
FROM tpu AS tpu-baked
COPY baked /opt/baked
ENV ANTIPODE_BAKED_DIR=/opt/baked

FROM runtime AS cpu
COPY --from=build-cpu /opt/antipode /opt/antipode
ENV JAX_PLATFORMS=cpu
