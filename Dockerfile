# syntax=docker/dockerfile:1
#
# Three images from one file:
#
#     docker build --target worker     -t darkroom-worker .      a GPU worker: CUDA, torch, diffusers (several GB)
#     docker build --target worker-cpu -t darkroom-worker .      the same without a GPU, for trying things out
#     docker build --target gateway    -t darkroom-gateway .     the HTTP gateway and the commands; no torch (some 200 MB)
#
# What is installed is what requirements.lock pins, every file by its hash. Torch brings its own CUDA libraries; the base
# brings what the driver's container toolkit looks for. gcc stays in the workers' images: torch.compile needs it at run time.
#
# tini is process 1, not Python: the kernel gives process 1 no default action, so a SIGTERM that comes before Python has
# set its handlers (its first half second) would be lost, and the container killed when its grace period is over. tini
# passes every signal on, and ends with the code of what it ran. It is in Ubuntu's universe, as python3.12-venv is.

# --- What is installed, for each image ------------------------------------------------------------------------------

FROM ubuntu:24.04 AS python
ENV DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-venv ca-certificates tini \
    && rm -rf /var/lib/apt/lists/*

FROM python AS build
RUN python3.12 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==0.13.9
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
RUN /opt/uv/bin/uv venv --python /usr/bin/python3.12 /opt/darkroom
WORKDIR /source
COPY pyproject.toml requirements.lock README.md LICENSE ./

# The lock as constraints: only what the extras need, in the locked versions, and nothing whose hash it does not have.
FROM build AS build-gateway
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --python /opt/darkroom --constraint requirements.lock --verify-hashes \
        --requirements pyproject.toml --extra gateway --extra trace --extra aws
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --python /opt/darkroom --no-deps --build-constraint requirements.lock .

FROM build AS build-worker
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --python /opt/darkroom --constraint requirements.lock --verify-hashes \
        --requirements pyproject.toml --extra render --extra photos --extra provenance --extra gateway \
        --extra trace --extra aws
COPY . .
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --python /opt/darkroom --no-deps --build-constraint requirements.lock .

# --- The gateway, and the commands ----------------------------------------------------------------------------------

FROM python AS gateway
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Darkroom gateway" \
      org.opencontainers.image.description="HTTP gateway and command line of Darkroom" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 darkroom && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp darkroom
COPY --from=build-gateway /opt/darkroom /opt/darkroom
ENV PATH=/opt/darkroom/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DARKROOM_GATEWAY__HOST=0.0.0.0
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/livez', timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "--", "darkroom"]
CMD ["gateway", "--port", "8080"]

# --- A worker without a GPU -----------------------------------------------------------------------------------------

FROM python AS worker-cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Darkroom worker (CPU)" \
      org.opencontainers.image.description="Renders generation requests from Kafka, on a CPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3.12-dev \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 darkroom && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/darkroom darkroom \
    && install --directory --owner 10001 --group 10001 /var/cache/darkroom
COPY --from=build-worker /opt/darkroom /opt/darkroom
ENV PATH=/opt/darkroom/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    DARKROOM_WORKER__METRICS_HOST=0.0.0.0 DARKROOM_DEVICE=cpu XDG_CACHE_HOME=/var/cache/darkroom
USER 10001:10001
WORKDIR /var/cache/darkroom
VOLUME /var/cache/darkroom
EXPOSE 9464
# A worker that loads a model is well, and not ready: this asks for life alone.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9464/livez', timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "--", "darkroom"]
CMD ["serve"]

# --- A worker with a GPU --------------------------------------------------------------------------------------------

FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS worker
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Darkroom worker" \
      org.opencontainers.image.description="Renders generation requests from Kafka with SDXL and ControlNet on a GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-dev ca-certificates g++ tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 darkroom && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/darkroom darkroom \
    && install --directory --owner 10001 --group 10001 /var/cache/darkroom
COPY --from=build-worker /opt/darkroom /opt/darkroom
ENV PATH=/opt/darkroom/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    DARKROOM_WORKER__METRICS_HOST=0.0.0.0 XDG_CACHE_HOME=/var/cache/darkroom
USER 10001:10001
WORKDIR /var/cache/darkroom
VOLUME /var/cache/darkroom
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9464/livez', timeout=4)"]
ENTRYPOINT ["/usr/bin/tini", "--", "darkroom"]
CMD ["serve"]
