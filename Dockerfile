# The service in one image, for CPU (default) or NVIDIA GPUs:
#   docker build -t enflow .
#   docker build -t enflow:cuda --build-arg VARIANT=cuda .
#   docker build -t enflow:ray --build-arg VARIANT=cuda --build-arg EXTRAS=ray .      for the nodes of a Ray cluster

FROM node:22-slim AS page
WORKDIR /page
COPY service/web/package.json service/web/package-lock.json ./
RUN npm ci --omit=dev --no-audit --no-fund
COPY service/web ./
RUN npm run build

FROM python:3.11-slim-bookworm AS packages
ARG VARIANT=cpu
ARG EXTRAS=
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
RUN python -m venv /opt/enflow
COPY constraints.txt ./
# torch first and alone: the CUDA build installs 3 GB of libraries that a CPU image must not contain.
RUN torch=$(sed -n 's/^torch==//p' constraints.txt) && \
    case "$VARIANT" in \
        cpu) /opt/enflow/bin/pip install --no-deps --retries 1 --extra-index-url "$TORCH_CPU_INDEX" "torch==$torch+cpu" ;; \
        cuda) /opt/enflow/bin/pip install --no-deps "torch==$torch" ;; \
        *) echo "found VARIANT=$VARIANT, expected cpu or cuda" >&2; exit 1 ;; \
    esac
# The packages are empty here, so that a change of the source does not install the dependencies again. The editable
# install makes `enflow` the folder /app, where the next stage puts the source.
COPY pyproject.toml setup.py README.md LICENSE ./
RUN mkdir model service && touch __init__.py model/__init__.py service/__init__.py && \
    /opt/enflow/bin/pip install --constraint constraints.txt --editable ".${EXTRAS:+[$EXTRAS]}"

# The velocities as machine code of this machine's processor; on another processor the image computes without it.
FROM packages AS compiled
ARG VARIANT=cpu
RUN if [ "$VARIANT" = cpu ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends g++; fi
COPY __init__.py ./
COPY model model
COPY service service
COPY weights weights
RUN mkdir /compiled && if [ "$VARIANT" = cpu ]; then ENFLOW_CACHE=/compiled /opt/enflow/bin/enflow compile; fi

FROM packages AS wheels
# Headers, test programs and installers are needed only to build, and the image builds nothing.
RUN cd /opt/enflow/lib/python3.11/site-packages && \
    rm -rf torch/include torch/test torch/lib/*.a pip pip-*.dist-info /opt/enflow/bin/pip* && \
    find torch/bin -type f ! -name torch_shm_manager -delete && \
    /opt/enflow/bin/python -c "import torch, torchdiffeq, rdkit.Chem"

FROM python:3.11-slim-bookworm
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Enflow" \
      org.opencontainers.image.description="Generates and scores 3D molecules with an E(n) equivariant normalizing flow" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="$REVISION"
# Nobody outside reaches the container's own loopback. On every other address settings.py requires API keys.
ENV PATH=/opt/enflow/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    ENFLOW_HOST=0.0.0.0 ENFLOW_PORT=8000 ENFLOW_CACHE=/opt/enflow/compiled \
    ENFLOW_JOBS_URL=sqlite:////var/lib/enflow/jobs.sqlite \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin enflow && \
    install --directory --owner=10001 --group=10001 /var/lib/enflow
VOLUME /var/lib/enflow
COPY --from=wheels /opt/enflow /opt/enflow
COPY --from=compiled /compiled /opt/enflow/compiled
WORKDIR /app
COPY LICENSE pyproject.toml __init__.py ./
COPY model model
COPY service service
COPY --from=page /page/dist service/web/dist
COPY weights weights
RUN python -m compileall -q __init__.py model service && python -c "import enflow; assert enflow.__version__"
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
    CMD ["python", "-ISc", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"ENFLOW_PORT\"]}/health/ready', timeout=3)"]
ENTRYPOINT ["enflow"]
CMD ["serve"]
