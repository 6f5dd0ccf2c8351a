"""Every way of drawing a token, against a second one written in numpy.

The real engine reads a prompt; its logits then stay in the context, and a sampler may draw
from them as often as a test likes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from desktop_app.inference.engine import DrawnToken, SamplingParams
from desktop_app.inference.llama_engine import LlamaEngine
from desktop_app.inference.sampler import Floats, Sampling, logits_of
from desktop_app.inference.vocabulary import LlamaVocabulary
from finetune.contract.chat_template import Message
from finetune.contract.errors import InputError
from tests.desktop_app.inference.asking import Answer, ask

LAST = -1
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0, "temperature": 1.0}
ALL = 100
"""Likeliest tokens: at these temperatures the others are never drawn."""


class Bench:
    """Logits that lie still, and samplers that draw from them."""

    def __init__(self, engine: LlamaEngine) -> None:
        ask(engine, "Once upon a time", max_tokens=1)
        assert engine._loaded is not None
        assert engine._loaded.context is not None
        self.context = engine._loaded.context
        self.vocabulary: LlamaVocabulary = engine._loaded.vocabulary
        self.end_id = self.vocabulary.end_of_turn_id
        self.logits: Floats = logits_of(self.context, LAST, self.vocabulary.size).copy()

    def draw(self, count: int, **changed: object) -> list[int]:
        """The first token of ``count`` seeds."""
        params = SamplingParams(**{**OFF, **changed})  # type: ignore[arg-type]
        sampling = Sampling(params, self.vocabulary, self.end_id)
        tokens = []
        for seed in range(count):
            sampler = sampling.sampler(seed, lambda: False)
            tokens.append(sampler.sample(self.context, LAST))
            sampler.close()
        sampling.close()
        return tokens

    def probabilities(self, temperature: float = 1.0) -> Floats:
        exponents = np.exp((self.logits - self.logits.max()).astype(np.float64) / temperature)
        return np.asarray(exponents / exponents.sum(), dtype=np.float32)

    def best_first(self) -> list[int]:
        return [int(token) for token in np.argsort(-self.logits, kind="stable")]


@pytest.fixture
def bench(engine: LlamaEngine) -> Bench:
    return Bench(engine)


def nucleus(probabilities: Sequence[float], order: Sequence[int], mass: float) -> set[int]:
    """The first tokens of ``order`` that together have at least this much probability."""
    chosen: set[int] = set()
    total = 0.0
    for token in order:
        chosen.add(token)
        total += probabilities[token]
        if total >= mass:
            break
    return chosen


# --- truncation --------------------------------------------------------------------------------


def test_top_k_leaves_the_k_likeliest(bench: Bench) -> None:
    assert set(bench.draw(300, top_k=3)) == set(bench.best_first()[:3])


def test_top_p_leaves_the_smallest_set_with_that_much_probability(bench: Bench) -> None:
    p = bench.probabilities()
    allowed = nucleus(list(p), bench.best_first(), 0.4)
    drawn = set(bench.draw(400, top_p=0.4))
    assert drawn <= allowed
    assert len(drawn) > len(allowed) / 2


def test_min_p_leaves_what_is_not_too_far_below_the_likeliest(bench: Bench) -> None:
    p = bench.probabilities()
    allowed = {token for token in range(len(p)) if p[token] >= 0.3 * p.max()}
    assert set(bench.draw(400, min_p=0.3)) == allowed


def test_typical_p_leaves_the_tokens_whose_surprise_is_nearest_to_the_entropy(bench: Bench) -> None:
    p = bench.probabilities().astype(np.float64)
    entropy = -(p * np.log(p)).sum()
    order = [int(token) for token in np.argsort(np.abs(-np.log(p) - entropy), kind="stable")]
    drawn = set(bench.draw(400, typical_p=0.3))
    assert drawn <= nucleus(list(p), order, 0.3)
    assert bench.best_first()[0] not in drawn  # too predictable to be typical here


def test_xtc_leaves_out_all_but_the_least_likely_of_the_top_choices(bench: Bench) -> None:
    p = bench.probabilities()
    threshold = float(np.sort(p)[-3])  # three tokens reach it
    first, second, third, *_ = bench.best_first()
    always = Counter(bench.draw(400, xtc_probability=1.0, xtc_threshold=threshold * 0.999))
    assert not {first, second} & set(always)
    assert always[third]
    sometimes = set(bench.draw(400, xtc_probability=0.5, xtc_threshold=threshold * 0.999))
    assert {first, third} <= sometimes


def test_temperature_sharpens_and_zero_is_greedy(bench: Bench) -> None:
    for temperature in (0.5, 1.0):
        p = bench.probabilities(temperature)
        best = bench.best_first()[0]
        share = bench.draw(2000, temperature=temperature).count(best) / 2000
        assert abs(share - p[best]) < 4 * math.sqrt(p[best] / 2000)
    assert set(bench.draw(5, temperature=0.0)) == {bench.best_first()[0]}


def test_links_stand_in_the_order_of_llama_cpp(bench: Bench) -> None:
    # Top-p after top-k looks at what top-k left, made to sum up to one again.
    p = bench.probabilities()
    kept = bench.best_first()[:10]
    share = {token: float(p[token]) / sum(float(p[t]) for t in kept) for token in kept}
    allowed = nucleus([share.get(t, 0.0) for t in range(len(p))], kept, 0.5)
    assert set(bench.draw(400, top_k=10, top_p=0.5)) == allowed
    # Min-p before temperature: heat does not bring back what was left out.
    likely = {token for token in range(len(p)) if p[token] >= 0.3 * p.max()}
    assert set(bench.draw(400, min_p=0.3, temperature=50.0)) <= likely
    # A bias comes before everything.
    last = bench.best_first()[-1]
    assert set(bench.draw(20, top_k=1, logit_bias=((last, 1000.0),))) == {last}


def test_mirostat_1_and_2_hold_the_surprise_near_its_target(engine: LlamaEngine) -> None:
    for version in (1, 2):
        means = []
        for tau in (1.0, 4.0):
            answer = ask(
                engine, "Hi", max_tokens=150, mirostat=version, mirostat_tau=tau, logprobs=1,
                **{**OFF, "temperature": 1.0},
            )  # fmt: skip
            surprises = [-t.drawn.logprob / math.log(2) for t in logprobs(answer)]
            means.append(sum(surprises) / len(surprises))
        assert means[0] < 3.0
        assert means[1] > means[0] + 1.0


# --- what depends on the tokens before ---------------------------------------------------------


def logprobs(answer: Answer) -> tuple[DrawnToken, ...]:
    return answer.streams[0].logprobs


def best(token: DrawnToken, penalty: dict[int, float]) -> int:
    """Greedy choice among the likeliest, after penalties."""
    return max(token.likeliest, key=lambda t: t.logprob - penalty.get(t.token, 0.0)).token


def test_frequency_and_presence_penalties_by_hand(engine: LlamaEngine) -> None:
    window, frequency, presence = 60, 0.6, 0.9
    answer = ask(
        engine, "Hi", max_tokens=150, logprobs=ALL, temperature=0.0, repeat_penalty=1.0,
        penalty_window=window, frequency_penalty=frequency, presence_penalty=presence,
    )  # fmt: skip
    drawn: list[int] = []
    for token in logprobs(answer):
        counts = Counter(drawn[-window:])
        penalty = {t: frequency * n + presence for t, n in counts.items()}
        assert token.drawn.token == best(token, penalty)
        drawn.append(token.drawn.token)
    plain = ask(engine, "Hi", max_tokens=150, logprobs=1, temperature=0.0, repeat_penalty=1.0)
    assert drawn != [t.drawn.token for t in logprobs(plain)]


def dry_penalty(
    tokens: Sequence[int], multiplier: float, base: float, allowed: int
) -> dict[int, float]:
    """For every token, of the longest repetition that it would make longer."""
    penalty: dict[int, float] = {}
    for at in range(1, len(tokens)):  # tokens[at] came after tokens[:at]
        length = 0
        while length < at and tokens[at - 1 - length] == tokens[len(tokens) - 1 - length]:
            length += 1
        if length >= allowed:
            cost = multiplier * base ** (length - allowed)
            penalty[tokens[at]] = max(penalty.get(tokens[at], 0.0), cost)
    return penalty


def test_dry_makes_a_longer_repetition_dearer(engine: LlamaEngine) -> None:
    options = {"max_tokens": 120, "logprobs": ALL, "temperature": 0.0, "repeat_penalty": 1.0}
    answer = ask(
        engine, "Hi", dry_multiplier=1.0, dry_allowed_length=1, dry_penalty_last_n=200,
        dry_breakers=(), **options,
    )  # fmt: skip
    drawn: list[int] = []
    for token in logprobs(answer):
        penalty = dry_penalty(drawn, 1.0, 1.75, 1)
        assert token.drawn.token == best(token, penalty)
        drawn.append(token.drawn.token)
    plain = [t.drawn.token for t in logprobs(ask(engine, "Hi", **options))]
    assert drawn != plain


def test_a_breaker_ends_a_repetition(engine: LlamaEngine) -> None:
    options = {"max_tokens": 80, "temperature": 0.0, "repeat_penalty": 1.0}
    dry = {"dry_multiplier": 2.0, "dry_allowed_length": 1, "dry_penalty_last_n": 200}
    everywhere = tuple("abcdefghijklmnopqrstuvwxyz .,\n") + tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    plain = ask(engine, "Hi", **options).text
    assert ask(engine, "Hi", **options, **dry, dry_breakers=()).text != plain
    assert ask(engine, "Hi", **options, **dry, dry_breakers=everywhere).text.startswith(plain[:8])


# --- seeds, biases, ranges ---------------------------------------------------------------------

EVERYTHING: dict[str, object] = {
    "typical_p": 0.9,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.1,
    "dry_multiplier": 0.8,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.05,
    "logit_bias": (("e", 1.5), (7, -100.0)),
}


@pytest.mark.parametrize("more", [{}, {"mirostat": 1}, {"mirostat": 2}])
def test_the_same_seed_writes_the_same_text_whatever_is_set(
    engine: LlamaEngine, more: dict[str, object]
) -> None:
    options = {**EVERYTHING, **more}
    first = ask(engine, "Hello", seeds=[1, 2, 3], **options).texts
    assert ask(engine, "Hello", seeds=[1, 2, 3], **options).texts == first
    assert len(set(first)) == 3


def test_a_bias_is_for_a_token_by_text_or_by_number(bench: Bench) -> None:
    (number,) = bench.vocabulary.tokenize("e", continues=True)
    assert set(bench.draw(10, logit_bias=(("e", 100.0),))) == {number}
    assert set(bench.draw(10, logit_bias=((number, 100.0),))) == {number}
    assert set(bench.draw(10, logit_bias=(("<|im_end|>", 100.0),))) == {
        bench.vocabulary.special_tokens["<|im_end|>"]
    }
    likeliest = bench.best_first()[0]
    assert likeliest not in bench.draw(200, logit_bias=((likeliest, -100.0),))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"logit_bias": (("three words here", 1.0),)}, "exactly one"),
        ({"logit_bias": (("", 1.0),)}, "exactly one"),
        ({"logit_bias": ((100_000, 1.0),)}, "token 100000"),
        ({"logit_bias": ((-1, 1.0),)}, "token -1"),
        ({"logit_bias": ((1, math.inf),)}, "finite"),
        ({"temperature": math.nan}, "temperature"),
        ({"repeat_penalty": 0.0}, "repeat_penalty"),
        ({"penalty_window": -1}, "penalty_window"),
        ({"dry_penalty_last_n": 1 << 40}, "dry_penalty_last_n"),
        ({"xtc_probability": 1.5}, "xtc_probability"),
        ({"logprobs": 1000}, "logprobs"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": 'answer ::= "yes"'}, "grammar"),
        ({"grammar": "root ::= root | [a-z]"}, "grammar"),
        ({"json_schema": "{"}, "JSON schema"),
        ({"json_schema": "{}", "grammar": 'root ::= "a"'}, "not both"),
    ],
)
def test_what_cannot_be_used_is_a_sentence_and_nothing_is_computed(
    engine: LlamaEngine, settings: dict[str, object], words: str
) -> None:
    answer = ask(engine, "Hello", **settings)
    assert answer.failure is not None
    assert answer.events == [answer.failure]
    assert answer.failure.request_id == "r"
    assert words in answer.failure.message
    assert answer.failure.message.endswith(".")
    assert ask(engine, "Hello").done


def test_a_sampling_that_is_refused_holds_nothing(bench: Bench) -> None:
    params = SamplingParams(grammar="root ::= [")
    with pytest.raises(InputError, match="grammar"):
        Sampling(params, bench.vocabulary, bench.end_id)


# --- log-probabilities -------------------------------------------------------------------------


def test_log_probabilities_are_the_log_softmax_of_the_raw_logits(bench: Bench) -> None:
    logits = bench.logits.astype(np.float64)
    expected = logits - np.logaddexp.reduce(logits)
    params = SamplingParams(temperature=5.0, top_k=3, logit_bias=(("e", 3.0),), logprobs=7)
    sampling = Sampling(params, bench.vocabulary, bench.end_id)
    sampler = sampling.sampler(1, lambda: False)
    token = sampler.sample(bench.context, LAST)
    (entry,) = sampler.drawn  # type: ignore[attr-defined]
    assert entry.drawn.token == token
    assert entry.drawn.logprob == pytest.approx(expected[token], abs=1e-9)
    assert [t.token for t in entry.likeliest] == bench.best_first()[:7]
    for likely in entry.likeliest:
        assert likely.logprob == pytest.approx(expected[likely.token], abs=1e-9)
        assert likely.text == bench.vocabulary.piece(likely.token).decode("utf-8", "replace")
    sampler.close()
    sampling.close()


def test_asking_for_log_probabilities_changes_nothing_else(engine: LlamaEngine) -> None:
    plain = ask(engine, "Hello", seeds=[1, 2])
    asked = ask(engine, "Hello", seeds=[1, 2], logprobs=2)
    assert asked.texts == plain.texts
    for stream in asked.streams.values():
        assert len(stream.logprobs) == stream.completion_tokens
        assert all(len(entry.likeliest) == 2 for entry in stream.logprobs)
    assert all(stream.logprobs == () for stream in plain.streams.values())


@pytest.mark.slow
def test_they_are_the_trainers_own_for_the_same_tokens(
    engine: LlamaEngine, model_file: Path
) -> None:
    """The model is F32; the engine's cells hold half precision, which is all of the difference."""
    torch = pytest.importorskip("torch")
    from finetune.gguf_weights import load_trunk
    from finetune.policy import Policy, pad_batch

    answer = ask(engine, "Hello there", max_tokens=60, logprobs=1)
    tokens = [entry.drawn.token for entry in logprobs(answer)]
    assert engine._loaded is not None
    prompt = engine._loaded.encode([Message("user", "Hello there")])
    ids = [*prompt, *tokens]
    policy = Policy(load_trunk(model_file))
    with torch.no_grad():
        hidden = policy.hidden(pad_batch([(ids, [False] * len(ids))]))[0]
        theirs = policy.token_logprobs(hidden[len(prompt) - 1 : -1], torch.tensor(tokens))
    ours = np.array([entry.drawn.logprob for entry in logprobs(answer)])
    difference = np.abs(ours - theirs.numpy())
    assert difference.mean() < 1e-3
    assert difference.max() < 1e-2
