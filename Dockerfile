# The command line in a container, on CPUs or on NVIDIA GPUs: docs/deploy.md#docker
FROM python:3.12-slim-bookworm

# https://download.pytorch.org/whl/cu130 has the builds for CUDA 13
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH=2.14.1
ARG TORCHVISION=0.29.1
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "torch==$TORCH" "torchvision==$TORCHVISION"

COPY pyproject.toml README.md LICENSE /src/
COPY recipes /src/recipes
COPY cledet /src/cledet
# any user of `docker run --user` may write to /cache
RUN pip install --no-cache-dir "/src[lite,onnx,video]" && mkdir -m 1777 /cache

ENV HOME=/cache
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["cledet"]
CMD ["--help"]
