"""A finished model version: files and manifest in a folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from finetune import reward
from finetune.contract.chat_template import template_id
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import (
    Manifest,
    entry_of,
    sync_file,
    sync_folder,
    write_manifest,
)
from finetune.contract.recipe import Recipe
from finetune.export import check_parity, reward_metadata, write_adapter
from finetune.merge import write_merged
from finetune.policy import Policy
from finetune.vocabulary import GgufVocabulary

PARITY_METRICS: Final = tuple(
    f"{file}_{figure}"
    for file in ("base", "adapter", "merged")
    for figure in ("kl", "max_difference", "agreement", "regret", "max_regret")
)
ADAPTER, MODEL, REWARD = "adapter.gguf", "model.gguf", "reward.gguf"


@dataclass(frozen=True)
class VersionFacts:
    """What a version's manifest says beside its files."""

    run_id: str
    name: str
    parent: str | None
    base: Path
    base_sha256: str
    template: str
    recipe: Recipe
    metrics: Mapping[str, float]


def write_version(
    folder: Path,
    facts: VersionFacts,
    policy: Policy,
    roles: Sequence[str],
    heads: reward.RewardHeads | None,
    vocabulary: GgufVocabulary,
    sequences: Sequence[Sequence[int]],
) -> Manifest:
    """Write adapter, merged model and reward model, compare them with torch, then appear.

    Args:
        roles: the adapters that make the result.
        heads: of the reward model, where one was trained.
        sequences: token ids on which llama.cpp and torch are compared.

    Raises:
        ExportFailed: llama.cpp makes something else of the files.
    """
    base = read_header(facts.base)
    beside = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    provenance: dict[str, Any] = {
        "run_id": facts.run_id,
        "base_sha256": facts.base_sha256,
        "parent": facts.parent or "",
    }
    files = {"adapter": ADAPTER, "model": MODEL}
    weights = policy.joined(roles)
    write_adapter(beside / ADAPTER, base, weights, provenance)
    quantization = facts.recipe.quantization
    threads = torch.get_num_threads()
    write_merged(beside / MODEL, facts.base, beside / ADAPTER, quantization, provenance, threads)
    if heads is not None:
        files["reward"] = REWARD
        uncertainty = facts.recipe.ppo.score_uncertainty
        metadata = reward_metadata(heads.weight, heads.bias, uncertainty)
        write_adapter(beside / REWARD, base, policy.joined(reward.ROLE), {**provenance, **metadata})
    parity = check_parity(
        policy,
        roles,
        facts.base,
        beside / ADAPTER,
        beside / MODEL,
        quantization,
        vocabulary,
        sequences,
    )
    manifest = Manifest(
        version_id=facts.run_id,
        name=facts.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        parent=facts.parent,
        base_sha256=facts.base_sha256,
        template_id=template_id(facts.template),
        files=files,
        entries={name: entry_of(beside / name) for name in files.values()},
        run_id=facts.run_id,
        recipe=asdict(facts.recipe),
        metrics={**facts.metrics, **parity},
        licence=str(base.metadata.get("general.license", "")),
    )
    write_manifest(beside, manifest)
    for name in files.values():
        sync_file(beside / name)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(beside, folder)
    sync_folder(folder.parent)
    return manifest
