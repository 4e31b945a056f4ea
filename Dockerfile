# The app in a container:  docker build -t kfexplore . && docker run --rm -p 7860:7860 kfexplore
# For a GPU:  --build-arg TORCH_INDEX= , which takes torch from PyPI, then  --gpus all -e KFEXPLORE_DEVICE=cuda
# The tag's digest, for all platforms. To renew it:  docker buildx imagetools inspect python:3.12-slim
FROM python:3.12-slim@sha256:57cd7c3a7a273101a6485ba99423ee568157882804b1124b4dd04266317710de

RUN useradd --create-home --uid 1000 app
WORKDIR /home/app/kfexplore

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt requirements.lock requirements-torch.lock ./
RUN if [ -n "$TORCH_INDEX" ]; \
    then pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" "$(grep ^torch== requirements.txt)"; \
    else pip install --no-cache-dir --no-deps --require-hashes -r requirements-torch.lock; fi \
    && pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock

COPY app.py LICENSE ./
COPY docs/FIGURES.md docs/
COPY kfexplore kfexplore
COPY checkpoints checkpoints

USER app
ENV GRADIO_SERVER_NAME=0.0.0.0
EXPOSE 7860
HEALTHCHECK --start-period=60s \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=5)"
CMD ["python", "app.py"]
