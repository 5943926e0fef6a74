# syntax=docker/dockerfile:1
# `ltuning serve` on CPUs, with the backbone builtin:minilm inside; classifiers are mounted at /runs.
FROM python:3.12-slim

# Where builds of torch for CPUs alone are, as PyTorch's installation page has it; those of PyPI bring
# the libraries of CUDA, gigabytes of them.
ARG TORCH_INDEX

WORKDIR /runs

# In a layer of its own, as it seldom changes.
RUN --mount=type=bind,source=constraints.txt,target=/tmp/constraints.txt \
    pip install --no-cache-dir --disable-pip-version-check \
        ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' /tmp/constraints.txt)"

RUN --mount=type=bind,target=/tmp/ltuning \
    pip install --no-cache-dir --disable-pip-version-check \
        --constraint /tmp/ltuning/constraints.txt '/tmp/ltuning[serve,builtin]'

RUN useradd --create-home --uid 10001 ltuning
USER 10001

EXPOSE 8000

# python:3.12-slim has no curl.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]

# In a container 127.0.0.1 is the container itself; `docker run --publish` says who reaches the port.
ENTRYPOINT ["ltuning", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["--help"]
