# Vitrine with its default model: docker build -t vitrine .
#
# Two stages. `packages` installs the pinned packages of requirements/ into /opt/venv. The last stage copies that, then the
# weights, then the code, so that a change of the code rebuilds only one small layer. Works with BuildKit and with the
# classic builder.

# A release pins the base by its digest: --build-arg BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/venv \
    && apt-get update -qq && apt-get install -qq --no-install-recommends tini gcc libc6-dev
COPY requirements/image.txt /build/
RUN pip --python /opt/venv/bin/python install --no-deps --require-hashes --only-binary :all: -r /build/image.txt

# The index that provides torch: by default PyTorch's own, with CPU builds. Replace cpu by cu130 for CUDA 13. Empty means
# pip's default index, whose build for Linux includes CUDA. PyTorch's index has hashes in its links, so pip verifies the
# download; but they cannot be pinned, because each build of a version has its own.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/serve.txt /build/
RUN pip --python /opt/venv/bin/python install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        "$(grep '^torch==' /build/serve.txt)" \
    # Headers, self-tests, test programs and setuptools are needed only to compile against torch.
    && pip --python /opt/venv/bin/python uninstall --yes setuptools \
    && cd /opt/venv/lib/python3.*/site-packages/torch \
    && find bin -type f ! -name torch_shm_manager -delete \
    && rm -rf include test share
# torch needs these packages (105 MB) only for torch.compile and, on CUDA, for attention over images of different sizes in
# one call. The image with the CPU build works without them. `import torch` fails the build if a new torch needs them.
RUN python=/opt/venv/bin/python \
    && if $python -c "import sys, torch; sys.exit(torch.version.cuda is not None)"; then \
        pip --python $python uninstall --yes sympy mpmath networkx jinja2 markupsafe && $python -c "import torch"; \
    fi

# Install the command `vitrine` and the version, and compile the operators for CPUs. The code itself is copied later, to
# the same path.
WORKDIR /opt/vitrine
COPY pyproject.toml ./
COPY models/network/kernels/native/ models/network/kernels/native/
RUN touch README.md LICENSE \
    && for package in $(python -c "import tomllib; \
print(*(p.replace('.', '/') for p in tomllib.load(open('pyproject.toml', 'rb'))['tool']['setuptools']['packages']))"); \
       do mkdir -p "$package" && touch "$package/__init__.py"; done \
    && pip --python /opt/venv/bin/python install --no-deps --editable .


FROM ${BASE}
# A numeric id: any other works too, because nothing needs an entry in /etc/passwd.
ARG UID=10001
COPY --from=packages /usr/bin/tini /usr/bin/tini
COPY --from=packages /opt/venv /opt/venv
WORKDIR /opt/vitrine
COPY --from=packages /opt/vitrine/models/network/kernels/_native*.so models/network/kernels/
COPY weights/ weights/
# Offered by the playground.
COPY examples/ examples/
# Listen on 0.0.0.0, because the container's loopback is not reachable from outside; the user chooses what to publish.
# No byte code, and caches only in /tmp, because the root filesystem may be read-only. Two arenas, because glibc would
# otherwise keep freed memory for each thread.
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
# In Python, so that the image needs neither curl nor wget.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "-S", "/opt/vitrine/deploy/healthcheck.py"]
STOPSIGNAL SIGTERM
# The kernel does not deliver a signal to process 1 unless it has a handler, and Python has none while it starts: a stop in
# the first half second would be lost. tini is process 1, forwards signals and reaps orphans. -s: works also if another
# init is process 1 (docker run --init). No -g: the service itself ends the processes that it starts.
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
