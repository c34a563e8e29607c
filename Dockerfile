# liftstudio in a container; /work is the folder of pictures and runs.
#   docker build -t liftstudio .
#   docker run --rm -v "$PWD:/work" liftstudio --config sv3d-masked-sds --train image=photo.png
# For CUDA, where the NVIDIA container toolkit is installed:
#   docker build -t liftstudio --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 --build-arg EXTRAS=cuda .
#   docker run --rm --gpus all -v "$PWD:/work" liftstudio --config sv3d-masked-sds --train image=photo.png
ARG BASE=debian:bookworm-slim
FROM ${BASE}
ARG EXTRAS=
# More options of pip, for example an index of CPU builds of torch, which are smaller.
ARG PIP_OPTIONS=

RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*

COPY . /source
RUN python3 -m venv /opt/liftstudio \
 && /opt/liftstudio/bin/pip install --no-cache-dir ${PIP_OPTIONS} --constraint /source/requirements.txt "/source${EXTRAS:+[$EXTRAS]}" \
 && rm -rf /source

RUN useradd --create-home user && mkdir /work && chown user /work
USER user
ENV PATH=/opt/liftstudio/bin:$PATH
WORKDIR /work
ENTRYPOINT ["liftstudio"]
CMD ["--help"]
