"""What a run computes on and in, settled when it begins and kept with it.

Another number of threads, another type of numbers: each changes the last bits of a result. So a
run that is resumed computes as it began, whatever a new measurement would say.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from finetune import devices
from finetune.contract.manifest import write_whole


def same_machine(
    run_dir: Path, device: devices.Device, parameters: int
) -> tuple[devices.Device, torch.dtype]:
    """The device a run was begun with, and the type its matrix products are computed in.

    On another kind of device than it was begun with, a run begins anew from its checkpoints.
    """
    path = run_dir / "machine.json"
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        if begun["kind"] == device.kind and begun["dtype"] == device.dtype_name:
            kept = dataclasses.replace(
                device, threads=begun["threads"], free_bytes=begun["free_bytes"]
            )
            return kept, getattr(torch, begun["products"])
    products = devices.product_type(device, parameters)
    settled = {
        "kind": device.kind,
        "dtype": device.dtype_name,
        "products": str(products).removeprefix("torch."),
        "threads": device.threads,
        "free_bytes": device.free_bytes,
    }
    write_whole(path, json.dumps(settled).encode("utf-8"))
    return device, products
