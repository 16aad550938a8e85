# Vitrine with its default model: docker build -t vitrine .
#
# Stages: `packages` resolves nothing, it installs what requirements/ pins into /opt/venv; the last one copies that, then
# the weights, then the code, so that a change of the code rebuilds one small layer. Written for BuildKit and for the
# classic builder alike.

# A release pins the base by its digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv \
    && apt-get update -qq && apt-get install -qq --no-install-recommends tini
COPY requirements/image.txt /build/
RUN pip --python /opt/venv/bin/python install --no-deps --require-hashes --only-binary :all: -r /build/image.txt

# Where torch comes from: PyTorch's own index of CPU builds. cu130 in the place of cpu is the build for CUDA 13; empty
# means pip's usual index, whose build for Linux brings CUDA along. This index names its hashes in its links, so pip
# checks what it downloads, but they cannot be pinned for all builds of a version at once.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/serve.txt /build/
RUN pip --python /opt/venv/bin/python install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        "$(grep '^torch==' /build/serve.txt)" \
    # Headers, self-tests, test programs and setuptools: for compiling against torch, which nothing here does.
    && pip --python /opt/venv/bin/python uninstall --yes setuptools \
    && cd /opt/venv/lib/python3.*/site-packages/torch \
    && find bin -type f ! -name torch_shm_manager -delete \
    && rm -rf include test share
# torch imports these for compiling and for attention over all lengths in one call on CUDA: 105 MB that its CPU build
# serves without. The import of torch here fails the build on a torch that needs them after all.
RUN python=/opt/venv/bin/python \
    && if $python -c "import sys, torch; sys.exit(torch.version.cuda is not None)"; then \
        pip --python $python uninstall --yes sympy mpmath networkx jinja2 markupsafe && $python -c "import torch"; \
    fi

# The command `vitrine` and the version; the packages themselves come with the code, under the same path.
WORKDIR /opt/vitrine
COPY pyproject.toml ./
RUN touch README.md LICENSE \
    && for package in $(python -c "import tomllib; \
print(*(p.replace('.', '/') for p in tomllib.load(open('pyproject.toml', 'rb'))['tool']['setuptools']['packages']))"); \
       do mkdir -p "$package" && touch "$package/__init__.py"; done \
    && pip --python /opt/venv/bin/python install --no-deps --editable .


FROM ${BASE}
# A number and no name: whoever runs this may give any other, nothing here needs an entry in /etc/passwd.
ARG UID=10001
COPY --from=packages /usr/bin/tini /usr/bin/tini
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/vitrine
COPY weights/ weights/
# The page at / offers them.
COPY examples/ examples/
# 0.0.0.0 because the container's loopback is nobody's; what is published is the runner's choice.
# No byte code and caches only below /tmp: the root may be read-only. Two arenas keep glibc from hoarding memory per thread.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=2 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    TORCHINDUCTOR_CACHE_DIR=/tmp/cache/inductor \
    HF_HOME=/tmp/huggingface \
    HF_HUB_OFFLINE=1 \
    VITRINE_HOST=0.0.0.0 \
    VITRINE_LOG_FORMAT=json
EXPOSE 8000
# Python itself asks: the image needs neither curl nor wget.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-S", "/opt/vitrine/deploy/healthcheck.py"]
STOPSIGNAL SIGTERM
# Process 1 gets no signal that it has no handler for, and Python has none while it starts: a stop within the first
# half second would be lost. tini is process 1, hands every signal on and takes in orphans. -s: also where a runner's
# own init is process 1 (docker run --init). No -g: the service ends the processes that it has started by itself.
ENTRYPOINT ["tini", "-s", "--", "vitrine"]
CMD ["serve"]
USER ${UID}:${UID}

COPY LICENSE ./
COPY deploy/healthcheck.py deploy/
COPY models/ models/
COPY app/ app/

ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Vitrine" \
      org.opencontainers.image.description="A trained Vision Transformer behind HTTP, at any resolution" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
