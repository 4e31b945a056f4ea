"""`kfexplore doctor`: devices, versions and fast paths of this machine; checks every path that can run."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import torch

import kfexplore
from kfexplore.bench.setting import device_name, in_dtype
from kfexplore.cli.options import JsonFlag
from kfexplore.config import DecodeConfig, ModelConfig
from kfexplore.decoding.generate import Networks, decode, keyed_noise
from kfexplore.models import Student, Teacher, build
from kfexplore.models.fast_paths import FAST_PATHS

PACKAGES: Final = ("torch", "transformers", "tokenizers", "numpy", "gradio", "plotly", "triton", "flash-attn")


def doctor(as_json: JsonFlag = False) -> None:
    """Show devices, versions and fast paths; check every path that can run, and show what the others need."""
    found = examine()
    print(json.dumps(found, indent=2) if as_json else _report(found))


def examine() -> dict[str, Any]:
    """Checks the fast paths on every CUDA device; returns the document of `kfexplore doctor --json`."""
    places = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    devices = [{"device": "cpu", "name": device_name(torch.device("cpu")), "threads": torch.get_num_threads()}]
    for place in places:
        about = torch.cuda.get_device_properties(place)
        capability = f"{about.major}.{about.minor}"
        found = {"device": str(place), "name": about.name, "capability": capability, "bytes": about.total_memory}
        devices.append({**found, "error": probe(place)})
    return {
        "versions": {
            "kfexplore": kfexplore.__version__,
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            **{name: _version(name) for name in PACKAGES},
        },
        "platform": platform.platform(),
        "devices": devices,
        "fast_paths": [
            {
                "name": path.name,
                "about": path.about,
                "state": path.state,
                "reason": path.reason,
                "advice": path.advice if path.state == "unavailable" else "",
                "cases": [{"case": each.case, "reason": each.reason} for each in path.verdicts.values()],
            }
            for path in FAST_PATHS
        ],
    }


def probe(place: torch.device) -> str:
    """Decodes and trains with tiny models on a device, which checks every fast path there.

    Returns:
        The error raised outside of the fast paths; "" if there was none.
    """
    shape = {"vocab_size": 64, "width": 128, "depth": 2, "heads": 2, "mask_id": 63, "context": 64}  # head size 64
    try:
        for dtype in (torch.float32, torch.bfloat16):
            teacher, student = (
                in_dtype(build(config).to(place), dtype)
                for config in (ModelConfig("teacher", **shape), ModelConfig("student", **shape, block=4))
            )
            assert isinstance(teacher, Teacher)
            assert isinstance(student, Student)
            networks, prompts = Networks(teacher, student), [[1, 2, 3], [4]]
            for config in (DecodeConfig("ar"), DecodeConfig("pflm"), DecodeConfig("verified")):
                noise = keyed_noise(0, range(2), config, networks, 8)
                for _ in decode(config, networks, prompts, noise, 8, recheck=False, use_cuda_graphs=True):
                    pass
            ids, ends = torch.arange(32, device=place)[None], torch.tensor([[3, 30]], device=place)
            student.requires_grad_(True)
            logits = student.group_logits(ids, torch.full((1, 2, 4), 0.3, device=place), ends)
            logits.square().mean().backward()
    except Exception as error:  # from a driver or a library; it is reported
        return f"{type(error).__name__}: {error}"
    return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _report(found: dict[str, Any]) -> str:
    lines = [found["platform"]]
    lines += [f"  {name:<14}{value or 'not installed'}" for name, value in found["versions"].items()]
    lines.append("Devices")
    for each in found["devices"]:
        if each["device"] == "cpu":
            lines.append(f"  {'cpu':<14}{each['name']}, PyTorch threads: {each['threads']}")
            continue
        lines.append(f"  {each['device']:<14}{each['name']}, capability {each['capability']}, {each['bytes']:,} bytes")
        if each["error"]:
            lines.append(f"  {'':<14}cannot run a model: {each['error']}")
    lines.append("Fast paths")
    for path in found["fast_paths"]:
        lines.append(f"  {path['name']:<18}{path['state']:<13}{path['about']}")
        notes = [f"{case['case']}: {case['reason'] or 'agrees with the plain path'}" for case in path["cases"]]
        if path["state"] == "unavailable":
            notes += [f"{path['reason']}. Needed: {path['advice']}"]
        elif path["state"] == "disabled":
            notes.append(
                "The plain path is used instead. Please report this with the output of: kfexplore doctor --json"
            )
        lines += [f"  {'':<18}{note}" for note in notes]
    return "\n".join(lines)
