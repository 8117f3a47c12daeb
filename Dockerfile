# A container with the command "ichseg" and the shipped model. It needs no network when it runs, and no root.
#   docker build -t ichseg .
#   docker build -t ichseg:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
#   docker run --rm --network none --user "$(id -u):$(id -g)" -v /scans:/scans:ro -v /masks:/masks ichseg segment /scans /masks
#   docker run --rm --gpus all ... ichseg:cuda segment /scans /masks

FROM python:3.11-slim AS wheel
COPY . /source
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM python:3.11-slim
# torch for CPUs, or for CUDA where the index is one of PyTorch's CUDA indexes.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt /tmp/requirements.txt
RUN sed '/^# tests/,$d' /tmp/requirements.txt > /tmp/run.txt \
    && pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' /tmp/run.txt)" \
    && pip install --no-cache-dir -r /tmp/run.txt \
    && rm /tmp/requirements.txt /tmp/run.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir --no-deps /wheels/*.whl && rm -r /wheels && useradd --create-home ichseg
USER ichseg
WORKDIR /home/ichseg
# Any user may be given with --user: caches go where everyone can write.
ENV MPLCONFIGDIR=/tmp/matplotlib HOME=/tmp PYTHONDONTWRITEBYTECODE=1
EXPOSE 11112
ENTRYPOINT ["ichseg"]
CMD ["--help"]
