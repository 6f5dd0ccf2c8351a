"""The command ``export``: a finished run's merged model in another form. Starts without torch."""

from __future__ import annotations

import os
from pathlib import Path

from finetune.contract.errors import InputError
from finetune.contract.manifest import file_sha256, read_manifest, sync_file, sync_folder
from finetune.merge import write_merged
from finetune.quantization import require_quantization
from finetune.run_folder import read_spec


def export_again(run_dir: Path, quantization: str, output: Path) -> int:
    """Write the merged model of a finished run at another quantisation.

    Raises:
        InputError: there is no result yet, no place or a wrong name for the new file, or
            another model or none where the run's base was.
    """
    wanted = require_quantization(quantization)
    spec = read_spec(run_dir)
    adapter = run_dir / "export" / "adapter.gguf"
    if not adapter.is_file():
        raise InputError(f"The run in {run_dir} has no result yet; let it finish first.")
    if output.exists():
        raise InputError(f"{output} exists already; choose another name.")
    if not output.parent.is_dir():
        raise InputError(f"There is no folder {output.parent}.")
    trained_on = read_manifest(adapter.parent).base_sha256
    if not spec.base.is_file() or file_sha256(spec.base) != trained_on:
        raise InputError(
            f"The model that this run was trained on is not at {spec.base} any more; put it back "
            "there."
        )
    write_merged(output, spec.base, adapter, wanted, {"run_id": run_dir.name}, _threads())
    sync_file(output)
    sync_folder(output.parent)
    print(output)
    return 0


def _threads() -> int:
    """OMP_NUM_THREADS where it is set, as for training; else all cores."""
    fixed = os.environ.get("OMP_NUM_THREADS", "")
    if fixed.isdigit() and int(fixed) > 0:
        return int(fixed)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
