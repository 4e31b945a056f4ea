"""Proxies around the page: those of the environment, which loopback must not go through, and one in front of it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from kfexplore.errors import KfError

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
ROOT_VARIABLE: Final = "GRADIO_ROOT_PATH"
"""Of the environment: the prefix under which a proxy shows the page, or its whole address."""
OWN = {"config", "theme.css", "robots.txt", "favicon.ico", "manifest.json", "pwa_icon"}
OWN |= {"assets", "static", "svelte", "gradio_api"}
"""First parts of Gradio's paths, which a prefix would be taken for."""


def exempt_loopback(host: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Has requests to this machine pass by the proxies of the environment: Gradio asks its own address on start-up.

    Args:
        host: Address that the page listens on.
        environment: Gets a longer `no_proxy`.

    Raises:
        KfError: a proxy that no request can be made with, such as a SOCKS proxy without its package.
    """
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [each.strip().strip("[]") for each in (*named.split(","), *LOOPBACK, host)]  # httpx takes no [::1]
    value = ",".join(filter(None, dict.fromkeys(hosts)))
    environment.update({"no_proxy": value, "NO_PROXY": value})  # the first is read where both are there
    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise KfError(
            f"The proxy of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) cannot be used: {error}",
            "an http:// proxy, or none",
            "unset ALL_PROXY; or, for a SOCKS proxy, pip install 'httpx[socks]'",
        ) from error


def root_path(text: str) -> str:
    """The prefix of a proxy as Gradio wants it: "" for none, "/demo", or a whole address without a slash at its end.

    Raises:
        KfError: the prefix begins as Gradio's own paths do, so that a path could mean two things.
    """
    text = text.strip().rstrip("/")
    whole = text.startswith(("http://", "https://"))
    found = text if whole or not text else "/" + text.lstrip("/")
    first = urlsplit(found).path.split("/")[1:2]
    if OWN.intersection(first):
        raise KfError(
            f"{ROOT_VARIABLE} is {text!r}, which is a path of the page's own.", "another prefix, such as /demo"
        )
    return found
