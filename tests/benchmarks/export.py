"""Export of a merged, quantised model: ours beside llama.cpp's converter and quantiser.

    python tests/benchmarks/export.py --llama-cpp DIR --quantizer FILE --converter-python FILE
        --work DIR [--repeats 5] [--page tests/benchmarks/export.md]

A random model of Qwen2.5's 0.5B shape and a random adapter of rank 32 (as SFT and PPO joined).
Theirs begins with the merged Hugging Face folder in bfloat16 (merging is not counted):
``convert_hf_to_gguf.py --outtype bf16``, then ``llama-quantize``. Ours begins with the base as a
bfloat16 GGUF and the adapter as a GGUF, and is the real command ``python -m finetune export``, so
it merges as well. Both are run by turns; the page is written from the medians. The results are
compared before anything is claimed: the same types, and values as near as bfloat16 rounds.

Needs, beside what the trainer needs, an environment for the converter with torch, transformers
and sentencepiece; this script itself runs in the trainer's.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from finetune import ggml
from finetune.contract.gguf_file import read_header
from finetune.export import write_adapter
from finetune.gguf_weights import linear_stems, raw_tensor

SHAPE = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 896,
    "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
    "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0, "tie_word_embeddings": True, "vocab_size": 151936,
    "torch_dtype": "bfloat16", "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
RANK = 32
QUANTIZATIONS = ("Q4_K_M", "Q8_0")
REPOSITORY = Path(__file__).resolve().parents[2]
# A tokenizer of the converter's simplest kind; made-up words, as many as the shape has.
VOCABULARY = """
import sys
from sentencepiece import sentencepiece_model_pb2 as model
proto = model.ModelProto()
proto.trainer_spec.model_type = 2
proto.trainer_spec.byte_fallback = True
for number in range(int(sys.argv[2])):
    piece = proto.pieces.add()
    kind = {0: ("<unk>", 2), 1: ("<s>", 3), 2: ("</s>", 3)}
    piece.piece, piece.type = kind.get(number, (f"word{number}", 1))
    if 3 <= number < 259:
        piece.piece, piece.type = f"<0x{number - 3:02X}>", 6
    piece.score = -float(number)
open(sys.argv[1], "wb").write(proto.SerializeToString())
"""


@dataclass(frozen=True)
class Cost:
    """Of one program, or of several that follow each other: seconds add, memory is the most."""

    wall: float
    cpu: float
    resident: float
    """MB at the peak, mapped files included."""
    anonymous: float
    """MB at the peak without files: what nobody else can use meanwhile."""

    def then(self, other: Cost) -> Cost:
        return Cost(
            self.wall + other.wall,
            self.cpu + other.cpu,
            max(self.resident, other.resident),
            max(self.anonymous, other.anonymous),
        )


def measured(command: Sequence[object], threads: int) -> Cost:
    """Run a program to its end.

    Raises:
        SystemExit: it failed; its last words are shown.
    """
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
    }  # fmt: skip
    began = time.perf_counter()
    with subprocess.Popen(
        [str(part) for part in command], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        peak = [0, 0]
        watcher = threading.Thread(target=_watch, args=(process.pid, peak))
        watcher.start()
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        watcher.join()
    if process.returncode:
        sys.exit(said.decode("utf-8", "replace")[-3000:])
    return Cost(
        time.perf_counter() - began,
        used.ru_utime + used.ru_stime,
        peak[0] / 1024,
        peak[1] / 1024,
    )


def _watch(process: int, peak: list[int]) -> None:
    """Its peaks in kB: resident as the system keeps it, anonymous as seen every 10 ms.

    Not ``ru_maxrss``, in which the memory of this script's own process would be counted.
    """
    while True:
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            return
        found = dict(line.split(":", 1) for line in status.splitlines())
        if "VmHWM" not in found:  # it has ended
            return
        for place, name in enumerate(("VmHWM", "RssAnon")):
            peak[place] = max(peak[place], int(found[name].split()[0]))
        time.sleep(0.01)


# --- the model -------------------------------------------------------------------------------


def prepare(work: Path, converter: Sequence[object], python: Path) -> None:
    """The base as a folder and as a GGUF, the adapter, and the merged folder."""
    if (work / "merged" / "model.safetensors").exists():
        return
    for name in ("base", "merged"):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir(parents=True)
        (work / name / "config.json").write_text(json.dumps(SHAPE))
        arguments = [
            python,
            "-c",
            VOCABULARY,
            work / name / "tokenizer.model",
            str(SHAPE["vocab_size"]),
        ]
        subprocess.run(arguments, check=True)
    save_file(_random_weights(), work / "base" / "model.safetensors")
    subprocess.run(
        [*map(str, converter), "--outfile", work / "base.gguf", work / "base"],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    header = read_header(work / "base.gguf")
    luck = torch.Generator().manual_seed(2)
    update = {}
    for module, stem in linear_stems(header).items():
        columns, rows = header.tensors[f"{stem}.weight"].shape
        a = torch.randn(RANK, columns, generator=luck) / columns**0.5
        update[module] = (a, torch.randn(rows, RANK, generator=luck) * 0.01)
    run = work / "run"
    (run / "export").mkdir(parents=True, exist_ok=True)
    write_adapter(run / "export" / "adapter.gguf", header, update, {})
    (run / "run.json").write_text(json.dumps({"base": str((work / "base.gguf").resolve())}))
    weights = load_file(work / "base" / "model.safetensors")
    for module, (a, b) in update.items():
        name = f"{module}.weight"
        weights[name] = (weights[name].float() + b @ a).to(torch.bfloat16)
    save_file(weights, work / "merged" / "model.safetensors")


def _random_weights() -> dict[str, torch.Tensor]:
    luck = torch.Generator().manual_seed(1)
    width, inner, vocabulary = 896, 4864, 151936
    sizes = {"model.embed_tokens.weight": (vocabulary, width), "model.norm.weight": (width,)}
    for layer in range(24):
        at = f"model.layers.{layer}"
        for name, rows in (("q", 896), ("k", 128), ("v", 128)):
            sizes[f"{at}.self_attn.{name}_proj.weight"] = (rows, width)
            sizes[f"{at}.self_attn.{name}_proj.bias"] = (rows,)
        sizes[f"{at}.self_attn.o_proj.weight"] = (width, width)
        sizes[f"{at}.mlp.gate_proj.weight"] = (inner, width)
        sizes[f"{at}.mlp.up_proj.weight"] = (inner, width)
        sizes[f"{at}.mlp.down_proj.weight"] = (width, inner)
        sizes[f"{at}.input_layernorm.weight"] = (width,)
        sizes[f"{at}.post_attention_layernorm.weight"] = (width,)
    return {
        name: (torch.randn(size, generator=luck) / size[-1] ** 0.5).to(torch.bfloat16)
        for name, size in sizes.items()
    }


def difference(ours: Path, theirs: Path) -> float:
    """The largest relative difference of a tensor, root mean square over its numbers.

    Raises:
        SystemExit: the files have other tensors, or tensors of other types.
    """
    own, other = read_header(ours).tensors, read_header(theirs).tensors
    kinds = [{n: (t.type_name, t.shape) for n, t in found.items()} for found in (own, other)]
    if kinds[0] != kinds[1]:
        sys.exit(f"the tensors differ: {set(kinds[0].items()) ^ set(kinds[1].items())}")
    worst = 0.0
    for name, info in own.items():
        a, b = (
            ggml.to_floats(
                np.array(raw_tensor(path, found[name])).reshape(
                    -1, ggml.row_bytes(info.type_name, info.shape[0])
                ),
                info.type_name,
                info.shape[0],
            )
            for path, found in ((ours, own), (theirs, other))
        )
        worst = max(worst, float(np.sqrt(np.square(a - b).mean() / np.square(b).mean())))
    return worst


# --- the page --------------------------------------------------------------------------------


def page(rows: dict[str, dict[str, list[Cost]]], differences: dict[str, float], made: str) -> str:
    lines = [
        "# Export of a merged, quantised 0.5B shape", "",
        "Made by `tests/benchmarks/export.py`, which says what is measured.", "",
        f"{made}.", "",
        "Medians of runs by turns, in brackets the least and the most. Where the machine has other",
        "work it is the processor's time that counts. MB are at the peak; the second figure",
        "leaves out mapped files.", "",
        "| to | | wall s | CPU s | resident MB | anonymous MB |", "|-|-|-|-|-|-|",
    ]  # fmt: skip
    claims = []
    for quantization, found in rows.items():
        for who, costs in found.items():
            cells = [
                _spread([getattr(cost, figure) for cost in costs])
                for figure in ("wall", "cpu", "resident", "anonymous")
            ]
            lines.append(f"| {quantization} | {who} | {' | '.join(cells)} |")
        ours, theirs = (_median(found[who]) for who in ("ours", "llama.cpp, both"))
        claims.append(
            f"* {quantization}: {theirs.wall / ours.wall:.1f} times as fast by the clock, "
            f"{theirs.cpu / ours.cpu:.1f} times by the processor; peak memory "
            f"{ours.resident / theirs.resident:.2f} of theirs, without mapped files "
            f"{ours.anonymous / theirs.anonymous:.2f}. Largest difference of a tensor "
            f"{differences[quantization]:.1e} (relative, root mean square; theirs was rounded to "
            "bfloat16 after merging, ours was not)."
        )
    return "\n".join([*lines, "", *claims, ""])


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
        statistics.median(cost.resident for cost in costs),
        statistics.median(cost.anonymous for cost in costs),
    )


def _spread(values: Sequence[float]) -> str:
    digits = 1 if max(values) < 100 else 0
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="its source folder")
    parser.add_argument("--quantizer", type=Path, required=True, help="llama-quantize, built")
    parser.add_argument("--converter-python", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="a folder for some gigabytes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    converter = [
        given.converter_python, given.llama_cpp / "convert_hf_to_gguf.py", "--outtype", "bf16",
    ]  # fmt: skip
    prepare(given.work, converter, given.converter_python)
    rows: dict[str, dict[str, list[Cost]]] = {}
    differences: dict[str, float] = {}
    wide, theirs, ours = (given.work / f"{name}.gguf" for name in ("wide", "theirs", "ours"))
    for quantization in QUANTIZATIONS:
        found: dict[str, list[Cost]] = {
            "converter": [], "quantiser": [], "llama.cpp, both": [], "ours": [],
        }  # fmt: skip
        for _ in range(given.repeats):
            for path in (wide, theirs, ours):
                path.unlink(missing_ok=True)
            first = measured([*converter, "--outfile", wide, given.work / "merged"], given.threads)
            second = measured([given.quantizer, wide, theirs, quantization, given.threads],
                              given.threads)  # fmt: skip
            own = measured(
                [sys.executable, "-m", "finetune", "export", "--run-dir", given.work / "run",
                 "--quantization", quantization, "--output", ours], given.threads,
            )  # fmt: skip
            for who, cost in zip(found, (first, second, first.then(second), own), strict=True):
                found[who].append(cost)
            print(quantization, *(f"{who} {costs[-1]}" for who, costs in found.items()), sep="\n")
        differences[quantization] = difference(ours, theirs)
        rows[quantization] = found
    installed = importlib.metadata.version("llama-cpp-python")
    made = (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores ({platform.machine()}), "
        f"{given.threads} threads, {given.repeats} repeats, llama.cpp of llama-cpp-python "
        f"{installed}"
    )
    text = page(rows, differences, made)
    print(text)
    if given.page is not None:
        given.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
