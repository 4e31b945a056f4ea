"""A made-up pair of models behind the scrub figure, and what a page shows of it."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import numpy as np
from playwright.sync_api import Page, expect

EVIL = "<img src=x onerror=\"document.title='run'\">"
WORDS = [" the", " a", " little", EVIL, "\n", ",", " was", "ing", " dog", " cat"]
STEPS, K = 64, 3
START = [(step + 0.5) / STEPS for step in (20, 40, 11)]
Json = dict[str, Any]


def cdf(model: str, prompt: str, before: list[int], temperature: float) -> np.ndarray[Any, Any]:
    """A distribution of the next token that depends on everything before it; the student's is slightly off."""
    seed = hashlib.sha256(repr((prompt, before)).encode()).digest()
    weights = np.random.default_rng(list(seed)).exponential(size=len(WORDS))
    if model == "student":
        weights[len(before) % len(WORDS)] += 2.5
    weights = weights ** (1 / temperature)
    return np.cumsum(weights / weights.sum())


def tokens(model: str, prompt: str, u: list[float], temperature: float = 1.0) -> list[int]:
    chosen: list[int] = []
    for value in u:
        chosen.append(int(min(len(WORDS) - 1, np.searchsorted(cdf(model, prompt, chosen, temperature), value))))
    return chosen


def packed(values: Any, dtype: str) -> str:
    return base64.b64encode(np.asarray(values, dtype).tobytes()).decode()


class Models:
    """Answers as the app's server does, and records what it was asked; `failing` names what it refuses."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Json]] = []
        self.failing: set[str] = set()
        self.advice = "make app"
        self.every = 1

    def __call__(self, name: str, request: Json) -> Json:
        self.asked.append((name, request))
        if name in self.failing:
            why = {"failed": f"No {name}.", "valid": "less", "run": self.advice, "is_command": "make" in self.advice}
            return {"ok": False, "seq": request["seq"], **why}
        answer: Json = {"tables": self.tables, "point": self.point, "grid": self.grid}[name](request)
        return {"ok": True, "seq": request["seq"], "texts": dict(enumerate(WORDS)), **answer}

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]

    def point(self, request: Json) -> Json:
        u, prompt, temperature = request["u"], request["prompt"], request.get("temperature", 1.0)
        numbers = {"margin": [0.42] * len(u), "edge": [0.031] * len(u)}
        return {model: tokens(model, prompt, u, temperature) for model in ("teacher", "student")} | numbers

    def tables(self, request: Json) -> Json:
        k, prompt, steps = request["k"], request["prompt"], request["resolution"]
        u, slots = (request["u"] + START)[:k], request.get("slots", list(range(k)))
        hot = request.get("temperature", 1.0)
        known = [(r + 0.5) / steps for r in range(steps)][self.every // 2 :: self.every]
        table = {
            model: [[tokens(model, prompt, [*u[:j], value, *u[j + 1 :]], hot) for value in known] for j in slots]
            for model in ("teacher", "student")
        }
        shape = (len(slots), len(known), k)
        return {
            "slots": slots,
            "every": self.every,
            "pair": request["pair"],
            "prompt": prompt,
            "prompt_tokens": [[i, word] for i, word in enumerate(prompt.split(" "))],
            "note": "",
            "k": k,
            "k_max": K,
            "resolution": steps,
            "u": u,
            "temperature": hot,
            "trained": {"low": 0.5, "high": 1, "note": "Not trained there."},
            "teacher": packed(table["teacher"], "<u2"),
            "student": packed(table["student"], "<u2"),
            "margin": packed(np.full(shape, 0.42), "<f4"),
            "edge": packed(np.full(shape, 0.031), "<f4"),
            "point": self.point({"u": u, "prompt": prompt, "temperature": hot}),
            "device": "cpu",
            "dtype": "float32",
            "seconds": 0.31,
            "stored": False,
        }

    def grid(self, request: Json) -> Json:
        (i, j), steps = request["slots"], 32
        cells = {}
        for model in ("teacher", "student"):
            cell = np.zeros((steps, steps, 2), int)
            for x in range(steps):
                for y in range(steps):
                    u = list(request["u"])
                    u[i], u[j] = (x + 0.5) / steps, (y + 0.5) / steps
                    chosen = tokens(model, request["prompt"], u, request.get("temperature", 1.0))
                    cell[x, y] = np.array(chosen)[[i, j]]
            cells[model] = cell
        share = float((cells["teacher"] == cells["student"]).all(-1).mean())
        sent = {model: packed(cell, "<u2") for model, cell in cells.items()}
        return {"slots": [i, j], "resolution": steps, "agreement": share, "seconds": 0.1, **sent}


def payload(prompt: str = "Once upon", grid: bool = True) -> Json:
    models = Models()
    question = {"seq": 0, "pair": "tales", "prompt": prompt, "k": K, "u": START, "resolution": STEPS}
    made = models("tables", question) | {"stored": True}
    return made | ({"grid": models("grid", {**question, "slots": [0, 1]})} if grid else {})


def alone(page: Page, body: str) -> None:
    page.set_content(f"<!doctype html><meta charset=utf-8><body style='margin:0'>{body}")


def shown(page: Page, model: str, root: str = "[data-u]") -> list[int]:
    chips = page.locator(f"{root} .kfs-cells .kfs-chip[data-model={model}]:visible")
    return [int(chip.get_attribute("data-id") or -1) for chip in chips.all()]


def noise(page: Page) -> list[float]:
    return [float(u) for u in (page.locator("[data-u]").get_attribute("data-u") or "").split(",")]


def settled(page: Page) -> None:
    expect(page.locator("[data-u]")).to_have_attribute("data-tables", "ready")
    page.wait_for_function("!document.querySelector('.kfs [aria-busy=true]')")
