"""The app, as `make app` and a Hugging Face Space run it; the environment says what differs there."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec

if find_spec("spaces"):
    import_module("spaces")  # before torch, which kfexplore imports: ZeroGPU stands in for its CUDA

from kfexplore.errors import KfError
from kfexplore.ui.app import launch

if __name__ == "__main__":
    try:
        launch(
            pair=os.environ.get("KFEXPLORE_PAIR", "tales"),
            device=os.environ.get("KFEXPLORE_DEVICE"),
            host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
            port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
        )
    except KfError as error:
        sys.exit(f"kfexplore: {error}")
