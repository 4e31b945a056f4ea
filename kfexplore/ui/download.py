"""Files that the browser writes from a text it is sent; the server keeps none."""

from __future__ import annotations

import json


def saves_as(name: str, kind: str) -> str:
    """Runs in the browser: writes the text that it is given to a file; nothing where it is empty.

    Args:
        name: Of the file.
        kind: Its media type.
    """
    return f"""(text) => {{
  if (!text) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {{type: {json.dumps(kind)}}}));
  link.download = {json.dumps(name)};
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}}"""
