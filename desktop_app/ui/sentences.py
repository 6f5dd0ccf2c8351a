"""Sentences of the parts that know no Qt (engine, stores, trainer), in the person's language.

Those parts speak English with names and numbers filled in. What they can say stands here, and for
the trainer in ``trainer_sentences``, as templates, one sentence each; what is not there is shown as
it came. Tests compare the tables with the sources.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from PySide6.QtCore import QT_TRANSLATE_NOOP, QCoreApplication

from desktop_app.ui.trainer_sentences import TRAINER_TEMPLATES

_BETWEEN_SENTENCES: Final = re.compile(r"(?<=[.!?])\s+")
_BETWEEN_PARTS: Final = re.compile(r"(, |; |: )(?![^()]*\))")
"""Joins what is filled in where that is several; what stands in brackets is one."""


def in_our_language(text: str) -> str:
    """``text`` with every sentence we know translated."""
    return " ".join(_sentence(part) for part in _BETWEEN_SENTENCES.split(text))


def template_of(sentence: str) -> str | None:
    """The template a sentence, or a part of one, was made from, if it is one of ours."""
    for template, pattern in _patterns():
        if pattern.fullmatch(sentence):
            return template
    return None


def _sentence(sentence: str) -> str:
    for template, pattern in _patterns():
        match = pattern.fullmatch(sentence)
        if match is not None:
            filled_in = [_parts(group) for group in match.groups()]
            return QCoreApplication.translate("Sentences", template).format(*filled_in)
    return sentence


def _parts(filled_in: str) -> str:
    """What stands in a sentence's gap: reasons are translated, names and numbers are not known."""
    return "".join(_sentence(part) for part in _BETWEEN_PARTS.split(filled_in))


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Templates with what matches them; the most particular (longest) first."""
    ordered = sorted(TEMPLATES, key=len, reverse=True)
    return [(t, re.compile(re.sub(r"\\\{\d\\\}", "(.+?)", re.escape(t)))) for t in ordered]


TEMPLATES: Final = (
    str(QT_TRANSLATE_NOOP("Sentences", "Something went wrong inside Attune.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Your conversations are safe.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The log in the data folder says more.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Attune is open already with this profile.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Use the window that is open, or start with another --profile-dir.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The file with your conversations was damaged.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The file with your conversations was gone.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The newest backup was put in its place.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The file with your conversations was damaged and there is no backup yet.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "A new one was begun.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The damaged file is kept as {0}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The model is not running.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Load a model first.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The engine could not be started: {0}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The engine was asked something it does not know.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The model crashed.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The model ended unexpectedly.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The model was ended from outside, perhaps because memory was short.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The model was ended from outside.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The model crashed: its file changed or became unreadable while it was in use.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The computer ran out of memory and ended the model.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Close other programs or use a smaller model.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The model did not answer for {0} seconds and was stopped.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "There is not enough memory for this.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "{0} needs {1} MB of memory (weights {2} + context {3} + work space {4}), "
            "and only {5} MB are free for it.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "Loading was stopped.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The model's file is still being read.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Try again in a moment.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "This conversation is {0} tokens long, and the model can read {1} at once.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Begin a new one, or let the oldest turns be left out.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "No model is loaded.")),
    str(QT_TRANSLATE_NOOP("Sentences", "There is nothing to answer.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "{0} is {1} tokens long, and the model can read {2} at once.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "This message")),
    str(QT_TRANSLATE_NOOP("Sentences", "The last turn")),
    str(QT_TRANSLATE_NOOP("Sentences", "Shorten it or send it in parts.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The system prompt is too long for this model.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Shorten it in the settings.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The model failed while it was computing; the log says more.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "This model gives no hidden states, so it cannot score.")),
    str(
        QT_TRANSLATE_NOOP("Sentences", "{0} holds no reward model, so it cannot score completions.")
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The reward model {0} was made for another model.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "With its prompt a completion is {0} tokens long, and the model can read {1} at once.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The completions are too long to be scored together.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Scoring was stopped.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The grammar cannot be used: {0}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The JSON schema cannot be used: {0}.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "A completion can follow a grammar or a JSON schema, not both.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP("Sentences", "The sampling setting {0} must be from {1} to {2}, not {3}.")
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The logit bias of {0} must be a finite number, not {1}; -100 is as good as never.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "There is a logit bias for token {0}, but the tokens of this model are 0 to {1}.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "There is a logit bias for {0}, but that is {1} tokens of this model; a bias is "
            "for exactly one.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "llama.cpp could not load {0}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "It may be of a kind that is newer than this program.")),
    str(QT_TRANSLATE_NOOP("Sentences", "llama.cpp refused the adapter {0}; its log says why.")),
    str(QT_TRANSLATE_NOOP("Sentences", "llama.cpp refused to use the adapter; its log says why.")),
    str(QT_TRANSLATE_NOOP("Sentences", "There is not enough memory for a context of {0} tokens.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Close other programs, or choose a shorter context or a smaller model.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "This model does not say how an answer ends, so it cannot chat.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "This text is too long to be read at once.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} is not a LoRA adapter.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "{0} was made for another kind of model ({1}, and this one is {2}).",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} does not say how strong it is (its alpha is {1}).")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} is damaged: it is not the file that was installed.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} is empty.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} holds only one half of {1}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} was made for another model: this one has no {1}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} holds {1} in a form that cannot be applied.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "{0} was made for another model: {1} has the shape {2} here, the adapter's "
            "halves {3} and {4}.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} is an adapter; it needs the model it was made for.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} does not say how its file {1} must look.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The model that {0} was trained on is not here any more.")),
    str(QT_TRANSLATE_NOOP("Sentences", "There is already another model version {0}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "There is no earlier model version to go back to.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The bundled model cannot be removed.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The active model version cannot be removed; activate another first.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "There is no model version {0}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The model version in {0} calls itself another name.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} was trained on a model that is not installed here.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Install that model first.")),
    str(QT_TRANSLATE_NOOP("Sentences", "There is not enough space on the disk for the new model.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Free {0} MB.")),
    str(QT_TRANSLATE_NOOP("Sentences", "A model version cannot hold the name {0}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The file {0} of {1} is missing.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The new model could not be stored: {0}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Free some space on the disk and install it again.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The file {0} of {1} is missing or incomplete.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The bundled model {0} is missing.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Install Attune again, or start it with another model.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} holds neither a model nor an adapter.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The active model version cannot be used; the bundled model is.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Which model version was active cannot be read; the bundled model is used.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The folder {0} cannot be used: {1}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Choose another one with --profile-dir.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Attune cannot write in the folder {0}.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Check that it is yours and that the disk is not full, or choose another one with "
            "--profile-dir.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "The file {0} in {1} cannot be opened ({2}).")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "Check that the folder may be written and that no other Attune uses it.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "This could not be saved ({0}).")),
    str(QT_TRANSLATE_NOOP("Sentences", "Check the data folder.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The disk is full, so this could not be saved.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Free some space.")),
    str(QT_TRANSLATE_NOOP("Sentences", "These conversations were written by a newer Attune.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Update Attune, or start it with another --profile-dir.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Nothing was changed.")),
    str(QT_TRANSLATE_NOOP("Sentences", "This model's chat template could not be used: {0}")),
    str(QT_TRANSLATE_NOOP("Sentences", "The conversation is empty; write a message first.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "This model's chat template depends on what the messages say in a way Attune "
            "does not know, so it cannot be used for chatting.",
        )
    ),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "This model's chat template rewrites messages in a way Attune does not know, so"
            " it cannot be used for chatting.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "There is no file {0} in {1}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} cannot be read: {1}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} is not a usable GGUF model: {1}.")),
    str(QT_TRANSLATE_NOOP("Sentences", "Download or export it again.")),
    str(
        QT_TRANSLATE_NOOP(
            "Sentences",
            "The model version in {0} was made by a newer Attune; update first.",
        )
    ),
    str(QT_TRANSLATE_NOOP("Sentences", "{0} is not a model version: {1} is missing.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The description of the model version in {0} is damaged.")),
    str(QT_TRANSLATE_NOOP("Sentences", "The file {0} of {1} is damaged.")),
    *TRAINER_TEMPLATES,
)
