# docker build --tag dino-tutorial . && docker run --publish 8888:8888 dino-tutorial
# With a GPU: docker run --gpus all …. The wheels of torch bring CUDA along.
FROM python:3.12-slim
RUN useradd --create-home reader && mkdir /book && chown reader /book
WORKDIR /book
COPY requirements.lock .
RUN pip install --no-cache-dir --requirement requirements.lock jupyterlab
COPY --chown=reader . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .
USER reader
EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--no-browser", "book"]
