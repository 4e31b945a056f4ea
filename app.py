"""The app, as `make app` and a Hugging Face Space run it; the environment says what differs there."""

import os
from importlib import import_module
from importlib.util import find_spec

if find_spec("spaces"):
    import_module("spaces")  # before torch, which kfexplore imports: ZeroGPU stands in for its CUDA

from kfexplore.config import DEFAULT_PAIR
from kfexplore.errors import reported
from kfexplore.ui.server import free_port

if __name__ == "__main__":
    with reported():
        host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
        port = free_port(host)  # before Gradio is imported
        from kfexplore.ui.app import launch

        launch(
            pair=os.environ.get("KFEXPLORE_PAIR") or DEFAULT_PAIR,
            device=os.environ.get("KFEXPLORE_DEVICE"),
            host=host,
            port=port,
        )
