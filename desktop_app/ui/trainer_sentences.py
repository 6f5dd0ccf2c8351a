"""The sentences of the trainer, and the reasons it fills into them, as templates for ``sentences``.

A reason stands here alone: the trainer joins several of them in one sentence.
"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QT_TRANSLATE_NOOP

TRAINER_TEMPLATES: Final = (
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "There are {0} liked or corrected answers; {1} more are wanted to learn from "
            "them directly.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "There are {0} comparisons and thumbs; {1} more are wanted to learn what you "
            "prefer, so practising with a reward model is left out.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "All {0} thumbs are up; some thumbs down, or comparisons, are wanted to learn "
            "what you prefer, so practising with a reward model is left out.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "All {0} thumbs are down; some thumbs up, or comparisons, are wanted to learn "
            "what you prefer, so practising with a reward model is left out.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "No prompt to practise on leaves room for an answer, so practising with a "
            "reward model is left out.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Every prompt is too long to leave room for an answer, so the result could not "
            "be measured; feedback on shorter conversations is wanted.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "On unseen choices the reward model agrees with you in {0} of {1}, no better "
            "than chance, so practising with it is left out.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Most answers are longer than practising has room for, so practising with a reward "
            "model is left out.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "A piece of feedback could not be read: {0}.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "{0} completions are longer than {1} tokens with their prompt and were left out.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The feedback comes from too few conversations that begin differently, so the result "
            "cannot be measured on unseen ones.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The merged model will be larger than its base, because {0} can be read but not"
            " written.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The base is stored as {0}, which cannot be merged; choose another quantisation of it.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "PPO stopped at {0} nats from the SFT model (budget {1}); the last weights "
            "within the budget are kept.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The result of {0} is not offered: {1}.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The result is not better than the model it came from, so it is not offered ({0}).",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The training was stopped.")),
    str(QT_TRANSLATE_NOOP("Sentences", "It can go on from where it was.")),
    str(QT_TRANSLATE_NOOP("Sentences", "There was not enough memory.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Close other programs or choose a smaller model, then resume the training.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The disk is full.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Free some space, then resume the training.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The training failed unexpectedly ({0}).")),
    str(QT_TRANSLATE_NOOP("Sentences", "Details are in its log.txt.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The training lost its footing: {0}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Your model is unchanged.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The model file {0} has changed since this run was prepared.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "There is too little feedback to learn from: {0} and {1} are wanted.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences", "There is too little feedback to learn from: {0} are wanted."
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} more liked or corrected answers")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} more comparisons or thumbs")),
    str(QT_TRANSLATE_NOOP("Sentences", "some thumbs up or comparisons")),
    str(QT_TRANSLATE_NOOP("Sentences", "some thumbs down or comparisons")),
    str(QT_TRANSLATE_NOOP("Sentences", "shorter conversations")),
    str(QT_TRANSLATE_NOOP("Sentences", "more stages in the recipe")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "There was not enough memory for a step, so it goes on in smaller pieces "
            "({0} tokens at once).",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "some of its numbers are not finite")),
    str(QT_TRANSLATE_NOOP("Sentences", "it learned nothing")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "it unlearned too much (loss {0} times the base's, allowed {1})",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "it repeats itself (variety {0} of the base's, wanted {1})",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "its completions often do not end")),
    str(QT_TRANSLATE_NOOP("Sentences", "its completions are often empty")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences", "it does not please the reward model more than the base does"
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "no stage could learn")),
    str(QT_TRANSLATE_NOOP("Sentences", "the policy loss is not a number any more")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} is not a number any more")),
    str(QT_TRANSLATE_NOOP("Sentences", "sampler and trainer disagree by {0} nats a token")),
    str(QT_TRANSLATE_NOOP("Sentences", "The exported model does not run in llama.cpp.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The exported model reads text differently from the trained one.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The {0} scores differently from the trained model ({1} nats a token, allowed {2}).",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The {0} writes something else than the trained model ({1} nats a token, allowed {2}).",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "exported adapter")),
    str(QT_TRANSLATE_NOOP("Sentences", "merged model")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The model file {0} was changed during the training, so its result "
            "fits no model any more.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} is not a run folder: run.json is missing.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The file run.json in {0} is damaged.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Another trainer (process {0}) is at work in {1}; let it finish or stop it first.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "This file is an adapter, not a model; choose the model it belongs to.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Models of the kind {0} can be chatted with but not trained yet; those "
            "that can are: {1}.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Models made of several experts cannot be trained yet.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "Models with {0} position scaling cannot be trained yet.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The model file does not say its {0}; download it again.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The model file has no {0}, so it cannot be trained on.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "{0} is stored as {1}, which cannot be trained on; choose another quantisation "
            "of the model.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} has a tensor {1} that cannot be trained with yet.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} does not fit its architecture ({1}).")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} is an adapter for another model.")),
    str(QT_TRANSLATE_NOOP("Sentences", "llama.cpp cannot read the vocabulary of {0}.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "This model has no token that ends a turn, so it cannot be trained.",
        )
    ),
)
