"""The app, as `make app` and a Hugging Face Space run it."""

import os

from kfexplore.ui.app import launch

if __name__ == "__main__":
    launch(
        pair=os.environ.get("KFEXPLORE_PAIR", "tales"),
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )
