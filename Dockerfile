# The app in a container:  docker build -t kfexplore . && docker run --rm -p 7860:7860 kfexplore
# For a GPU:  --build-arg TORCH_INDEX=https://pypi.org/simple, then  --gpus all -e KFEXPLORE_DEVICE=cuda
FROM python:3.12-slim

RUN useradd --create-home --uid 1000 app
WORKDIR /home/app/kfexplore

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.txt ./
RUN pip install --no-cache-dir --index-url $TORCH_INDEX "$(grep ^torch== requirements.txt)" \
    && pip install --no-cache-dir -r requirements.txt

COPY app.py LICENSE ./
COPY kfexplore kfexplore
COPY checkpoints checkpoints

USER app
ENV GRADIO_SERVER_NAME=0.0.0.0
EXPOSE 7860
HEALTHCHECK --start-period=60s \
    CMD python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=5)"
CMD ["python", "app.py"]
