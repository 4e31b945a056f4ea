"""The app: a Gradio page, its API, and the server around them."""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # both are read when Gradio is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
