"""Sequences laid end to end in one row: no pads, and attention stays inside each of them.

Every linear layer, norm and activation runs once over the N tokens of a pack; only attention
looks at where a sequence ends. Measured on 8 sequences of 24 to 128 tokens with the bundled
model, one core, forward and back: padded 432 ms, packed with a mask over the whole row 348 ms,
packed with attention sequence by sequence 259 ms; a model of 30 million parameters 1326, 1054
and 925 ms. So on a processor it is sequence by sequence. A GPU would drown in small kernels:
there it is PyTorch's flash attention for sequences of unlike length where the type allows it,
else one padded call for attention alone.

Several completions of one prompt can share its tokens: the prompt goes through the network once,
and the tokens of each completion look at it and at their own. Hidden states and gradients are
those of whole sequences; on a processor only, where attention is ours to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune import distributed

ATTENTION: Final = "attune"
"""The attention of every trunk: transformers' own, and that of packs where one is given."""
LEAST_SHARED: Final = 4
"""Tokens; below that a completion that shares them costs more than it saves."""


@dataclass(frozen=True)
class Pack:
    """Sequences laid end to end, N tokens in all."""

    ids: Tensor
    """(N,)."""
    positions: Tensor
    """Of each token in its own sequence, (N,)."""
    learn: Tensor
    """True where a token is to be predicted from those before it, (N,); never a first one."""
    lengths: tuple[int, ...]
    """Of the sequences; without the tokens that they share."""
    prefixes: tuple[tuple[int, int], ...] = ()
    """For each sequence, which earlier one it begins like, and for how many tokens: these are not
    laid down again. Empty where nothing is shared."""

    @cached_property
    def ends(self) -> Tensor:
        """Where the last token of each sequence stands, (B,)."""
        return torch.tensor(self.lengths, device=self.ids.device).cumsum(0) - 1

    @cached_property
    def targets(self) -> Tensor:
        """The tokens that are predicted, (n,)."""
        return self.ids[self.learn]

    @cached_property
    def before_targets(self) -> Tensor:
        """Where the hidden states are that predict them, (n,)."""
        return self.learn.nonzero()[:, 0] - 1


def pack(
    rows: Sequence[tuple[Sequence[int], Sequence[bool]]], device: torch.device | str = "cpu"
) -> Pack:
    """Token ids with their learned mask; a mask may be shorter than its ids."""
    lengths = tuple(len(ids) for ids, _ in rows)
    learn = torch.zeros(sum(lengths), dtype=torch.bool)
    start = 0
    for ids, mask in rows:
        learn[start + 1 : start + len(mask)] = torch.tensor(mask[1:], dtype=torch.bool)
        start += len(ids)
    return Pack(
        torch.tensor([token for ids, _ in rows for token in ids]).to(device),
        torch.cat([torch.arange(length) for length in lengths]).to(device),
        learn.to(device),
        lengths,
    )


def pack_sharing(
    groups: Sequence[Sequence[Sequence[int]]], device: torch.device | str = "cpu"
) -> Pack:
    """Token ids of the completions of each prompt; what they begin with in common is laid down
    once. For hidden states at ``ends``, in the order of the groups; no token is learned."""
    if torch.device(device).type != "cpu":
        return pack([(ids, ()) for rows in groups for ids in rows], device)
    own: list[Sequence[int]] = []
    prefixes: list[tuple[int, int]] = []
    for rows in groups:
        first = len(own)
        for ids, shared in zip(rows, shared_prefixes(rows), strict=True):
            own.append(ids[shared:])
            prefixes.append((first, shared))
    return Pack(
        torch.tensor([token for ids in own for token in ids]),
        torch.cat(
            [
                torch.arange(shared, shared + len(ids))
                for ids, (_, shared) in zip(own, prefixes, strict=True)
            ]
        ),
        torch.zeros(sum(map(len, own)), dtype=torch.bool),
        tuple(map(len, own)),
        tuple(prefixes),
    )


def shared_prefixes(rows: Sequence[Sequence[int]]) -> list[int]:
    """How many first tokens each row has in common with the first of them, less its last; 0 for
    the first itself and where it is not worth while."""
    found = [0]
    for row in rows[1:]:
        pairs = zip(row[:-1], rows[0], strict=False)
        shared = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        shared = min(len(row) - 1, len(rows[0])) if shared is None else shared
        found.append(shared if shared >= LEAST_SHARED else 0)
    return found


def packs(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices in groups of at most ``tokens`` tokens in all, the shortest sequences first.

    A sequence longer than ``tokens`` is a group of its own. Where several processes train, these
    are the groups of this one's share.
    """
    groups: list[list[int]] = []
    room = 0
    for index in distributed.share(sorted(range(len(lengths)), key=lambda i: (lengths[i], i))):
        if not groups or lengths[index] > room:
            groups.append([])
            room = tokens
        groups[-1].append(index)
        room -= lengths[index]
    return groups


# --- attention -------------------------------------------------------------------------------


def use_packed_attention(model: Any) -> None:
    """Give a transformers model the attention that understands ``pack``."""
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation(ATTENTION)


def trunk_inputs(pack: Pack) -> dict[str, Any]:
    """What a trunk is called with to run over a pack."""
    return {
        "input_ids": pack.ids[None],
        "position_ids": pack.positions[None],
        # A mask of four dimensions goes through transformers untouched, so none is made for the
        # whole row; nobody looks at this one.
        "attention_mask": torch.empty(1, 1, 1, 1, device=pack.ids.device),
        "use_cache": False,
        "pack": pack,
    }


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    pack: Pack | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention for transformers' interface: heads (1, H, N, d) in, (1, N, H, d) out."""
    if pack is None and attention_mask is not None and _steps_on_processor(query, attention_mask):
        return _one_token(query, key, value, attention_mask, scaling), None
    if pack is None:
        found: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return found
    if query.device.type == "cuda" and query.dtype in (torch.float16, torch.bfloat16):
        return _flash(query, key, value, pack, scaling, sliding_window), None
    if query.device.type == "cpu":
        return _one_by_one(query, key, value, pack, scaling, sliding_window), None
    return _padded(query, key, value, pack, scaling, sliding_window), None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def _steps_on_processor(query: Tensor, mask: Tensor) -> bool:
    return query.shape[2] == 1 and query.device.type == "cpu" and mask.dtype == torch.float32


def _one_token(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None
) -> Tensor:
    """A new token of each row, (R, H, 1, d), looks at its row, (R, K, C, d): (R, 1, H, d).

    Two plain products: PyTorch's attention is made for many queries and takes a third longer.
    """
    rows, heads, columns, size = key.shape
    scale = size**-0.5 if scaling is None else scaling
    bias = mask.expand(rows, heads, 1, columns).reshape(-1, 1, columns)
    queries = query.reshape(rows * heads, -1, size)  # those that share a key head lie together
    scores = torch.baddbmm(bias, queries, key.flatten(0, 1).transpose(1, 2), alpha=scale)
    return torch.bmm(scores.softmax(-1), value.flatten(0, 1)).view(rows, 1, -1, size)


def _one_by_one(
    query: Tensor, key: Tensor, value: Tensor, pack: Pack, scaling: float | None, window: int | None
) -> Tensor:
    lengths = list(pack.lengths)
    grouped = query.shape[1] != key.shape[1]
    outputs = []
    parts = [torch.split(heads, lengths, 2) for heads in (query, key, value)]
    for index, (q, k, v) in enumerate(zip(*parts, strict=True)):
        like, shared = pack.prefixes[index] if pack.prefixes else (index, 0)
        if shared:
            k, v = (
                torch.cat([part[like][:, :, :shared], own], 2)
                for part, own in ((parts[1], k), (parts[2], v))
            )
        mask = _reach(q.shape[2], k.shape[2], window, q.device)
        outputs.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(outputs, 2).transpose(1, 2)


def _padded(
    query: Tensor, key: Tensor, value: Tensor, pack: Pack, scaling: float | None, window: int | None
) -> Tensor:
    """One call on (B, H, T, d); pads come last, so the causal mask alone keeps them out."""
    count, width = len(pack.lengths), max(pack.lengths)
    row = torch.repeat_interleave(
        torch.arange(count, device=query.device),
        torch.tensor(pack.lengths, device=query.device),
    )
    place = row * width + pack.positions

    def spread(heads: Tensor) -> Tensor:
        flat = heads.new_zeros(count * width, heads.shape[1], heads.shape[3])
        flat = flat.index_copy(0, place, heads[0].transpose(0, 1))
        return flat.view(count, width, *flat.shape[1:]).transpose(1, 2)

    mask = _reach(width, width, window, query.device)
    out = F.scaled_dot_product_attention(
        spread(query),
        spread(key),
        spread(value),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).flatten(0, 1)[place][None]


def _flash(
    query: Tensor, key: Tensor, value: Tensor, pack: Pack, scaling: float | None, window: int | None
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    bounds = F.pad(pack.ends + 1, (1, 0)).to(torch.int32)
    longest = max(pack.lengths)
    q, k, v = (heads[0].transpose(0, 1).contiguous() for heads in (query, key, value))
    out = varlen_attn(
        q,
        k,
        v,
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, Tensor)
    return out[None]


def _reach(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor | None:
    """(queries, keys), True where each of the last tokens may look: itself and those before it,
    at most ``window`` in all; None where the causal mask of a whole sequence says the same."""
    bounded = window is not None and keys > window
    if queries == keys and not bounded:
        return None
    own = torch.arange(keys - queries, keys, device=device)
    distance = own[:, None] - torch.arange(keys, device=device)[None, :]
    return (distance >= 0) & (distance < (keys if window is None else window))
