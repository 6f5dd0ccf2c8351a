"""The promise of Attune on real parts: chat, judge, train, see the change, take it back.

A simulated person who prefers short completions uses the real window (offscreen) with the
real engine child, the bundled model, a real database and a real trainer process.
"""

from __future__ import annotations

import random
import statistics
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from desktop_app.app import App, Options
from desktop_app.inference import engine
from desktop_app.inference.engine import SamplingParams, StreamSpec
from desktop_app.paths import open_profile
from desktop_app.services.learning_service import TrialQuestion, TrialScore
from finetune.contract.chat_template import Message
from finetune.contract.events import RunDone, RunFailed

TRAINING_PROMPTS = (
    "Hi there!", "How are you today?", "I am so tired.", "What is your name?",
    "Tell me about cats.", "I like music.", "What can you do?", "It is raining outside.",
    "I had a long day at work.", "Can you tell me a story?", "What should I eat tonight?",
    "Thank you for your help.", "I feel a bit sad.", "What is a good hobby?",
    "Do you like coffee?", "I am learning Korean.", "Good night!", "Tell me a joke.",
    "안녕하세요", "오늘 너무 피곤해", "이름이 뭐예요?", "뭐 먹을까?", "비가 와요",
    "재미있는 이야기 해 줘", "고마워요", "심심해", "주말에 뭐 하지?", "음악 좋아해?",
)  # fmt: skip
HELD_OUT_PROMPTS = (
    "Hello!", "I am bored.", "Tell me about dogs.", "What do you think about tea?",
    "I had a bad day.", "Can you help me?", "What is your favourite season?", "I like books.",
    "반가워요", "오늘 기분이 좋아", "저녁 추천해 줘", "잠이 안 와", "영화 볼까?", "도와줘서 고마워",
)  # fmt: skip
SEEDS = range(1, 17)
"""Completions of each held-out prompt: at temperature 1 lengths vary as much as their mean, so that
the mean of all 224 is known to some 5 percent; a trained one lies 40 to 60 below."""
AT_ONCE = 8
"""Of them side by side."""


class Person:
    """Someone at the window who likes it short."""

    def __init__(self, app: App, qtbot: QtBot) -> None:
        self.app = app
        self.qtbot = qtbot
        self.problems: list[str] = []
        app.chat.problem.connect(self._note)
        app.learning.problem.connect(self._note)

    def _note(self, message: str, hint: str) -> None:
        self.problems.append(f"{message} {hint}")

    def wait_ready(self) -> None:
        self.qtbot.waitUntil(lambda: self.app.chat.engine.state.status == "ready", timeout=60_000)

    def ask(self, text: str, *, compare: bool = False) -> None:
        self.app.chat.send(text, compare=compare)
        self.qtbot.waitUntil(lambda: not self.app.chat.is_busy, timeout=60_000)

    def prefer_the_shorter(self, text: str) -> None:
        """Ask for two completions, choose the shorter one, and rate what is left."""
        chat, feedback = self.app.chat, self.app.feedback
        chat.new_conversation()
        self.ask(text, compare=True)
        pending = chat.pending_comparison
        if pending is None:
            return
        one, two = (chat.message(i) for i in pending.message_ids)
        shorter, longer = sorted((one, two), key=lambda m: len(m.content))
        if len(shorter.content) < len(longer.content):
            feedback.compare((one.id, two.id), shorter.id, "ordered")
        chat.choose(shorter.id)
        feedback.rate(shorter.id, len(shorter.content) <= 30)

    def completions(self, prompts: tuple[str, ...], temperature: float) -> list[str]:
        """What the active model writes, outside any conversation, at fixed seeds."""
        model = self.app.learning.active_model()
        sampling = SamplingParams(
            temperature=temperature, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0,
            max_tokens=64,
        )  # fmt: skip
        texts: list[str] = []
        seeds = SEEDS if temperature else SEEDS[:1]  # greedy ones are all the same
        asked = [
            (p, seeds[at : at + AT_ONCE]) for p in prompts for at in range(0, len(seeds), AT_ONCE)
        ]
        for prompt, some in asked:
            done: list[engine.Event] = []
            request = engine.Generate(
                uuid.uuid4().hex,
                (Message("user", prompt),),
                sampling,
                tuple(StreamSpec(seed, model.version_id, model.adapter) for seed in some),
            )

            def collect(event: engine.Event, done: list[engine.Event] = done) -> None:
                done.append(event)

            self.app.chat.engine.event_received.connect(collect)
            self.app.chat.engine.request(request)
            self.qtbot.waitUntil(
                lambda done=done: any(isinstance(e, engine.RequestDone) for e in done),
                timeout=60_000,
            )
            self.app.chat.engine.event_received.disconnect(collect)
            ended = [e for e in done if isinstance(e, engine.StreamDone)]
            for event in ended:
                adapter = model.adapter.sha256 if model.adapter else None
                assert event.origin.adapter_sha256 == adapter
            texts += [e.text for e in ended]
        return texts


@pytest.fixture
def person(qtbot: QtBot, tmp_path: Path, starter_model: Path) -> Iterator[Person]:
    assert starter_model.is_file(), "the bundled model belongs to the checkout"
    app = App(open_profile(tmp_path / "profile"), Options())
    qtbot.addWidget(app.window)
    app.chat.chance = random.Random(7)  # the same feedback in each run of the test
    app.start()
    yield Person(app, qtbot)
    app.close()
    app.deleteLater()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_short_answers_are_learned_and_can_be_taken_back(person: Person, qtbot: QtBot) -> None:
    app = person.app
    person.wait_ready()

    # Three turns, as anybody would begin.
    for text in ("Hello!", "What can you do?", "고마워요"):
        person.ask(text)
    assert [m.role for m in app.chat.messages(app.chat.current_conversation)] == [
        "user", "assistant",
    ] * 3  # fmt: skip
    base_version = app.learning.active_version()
    greedy_before = person.completions(HELD_OUT_PROMPTS, temperature=0.0)
    sampled_before = person.completions(HELD_OUT_PROMPTS, temperature=1.0)

    # Judge, and press the one button.
    for prompt in TRAINING_PROMPTS * 3:
        person.prefer_the_shorter(prompt)
    collected = app.feedback.collected()
    assert collected.is_enough_for_sft
    assert collected.is_enough_for_reward
    ended: list[RunDone | RunFailed] = []
    app.learning.run_ended.connect(ended.append)
    app.learning.start()  # with the recipe that every person gets
    qtbot.waitUntil(lambda: bool(ended), timeout=900_000)
    assert isinstance(ended[0], RunDone), ended[0]
    assert set(ended[0].stages) >= {"sft", "reward", "ppo", "evaluate", "export"}
    offered = app.learning.offered
    assert offered is not None
    assert app.learning.active_version() == base_version  # nothing changed yet

    # Compare blind: the person still likes it short, and does not know which is which.
    questions: list[TrialQuestion | None] = []
    scores: list[TrialScore] = []
    app.learning.trial_question.connect(questions.append)
    app.learning.trial_changed.connect(scores.append)
    app.learning.start_trial()
    for number in range(1, 6):
        qtbot.waitUntil(lambda n=number: len(questions) >= n, timeout=60_000)
        question = questions[-1]
        assert question is not None
        adapters = {c.origin.adapter_sha256 for c in question.completions if c.origin}
        assert len(adapters) == 2  # never the same model on both sides
        lengths = [len(c.text) for c in question.completions]
        chosen = None if lengths[0] == lengths[1] else lengths.index(min(lengths))
        app.learning.answer_trial(question, chosen, "all_good" if chosen is None else "ordered")
    qtbot.waitUntil(lambda: questions[-1] is None, timeout=60_000)
    assert scores[-1].new + scores[-1].old + scores[-1].ties == 5

    # Activate, and see the difference on prompts the training never saw.
    app.learning.activate(offered.version_id)
    person.wait_ready()
    sampled_after = person.completions(HELD_OUT_PROMPTS, temperature=1.0)
    mean_before = statistics.mean(len(text) for text in sampled_before)
    mean_after = statistics.mean(len(text) for text in sampled_after)
    assert mean_after < 0.9 * mean_before, (mean_before, mean_after)
    assert all(text.strip() for text in sampled_after)
    app.chat.new_conversation()
    person.ask("Good morning!")
    answer = app.chat.messages(app.chat.current_conversation)[-1]
    assert answer.origin is not None
    assert answer.origin.adapter_sha256 == offered.entries[offered.files["adapter"]].sha256

    # Take it back: the base's exact words again.
    app.learning.roll_back()
    person.wait_ready()
    assert app.learning.active_version() == base_version
    assert person.completions(HELD_OUT_PROMPTS, temperature=0.0) == greedy_before
    assert person.problems == []
