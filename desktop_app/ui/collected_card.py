"""What has been collected, and whether it is enough to learn from."""

from __future__ import annotations

from PySide6.QtCore import QEvent
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QProgressBar, QVBoxLayout, QWidget

from desktop_app.services.feedback_service import Collected, FeedbackService
from desktop_app.ui.controls import Card, TextLabel, restyle
from desktop_app.ui.theme import Theme

_KINDS = ("liked", "disliked", "comparisons", "corrections")
_ICONS = {
    "liked": "thumb_up",
    "disliked": "thumb_down",
    "comparisons": "columns",
    "corrections": "pencil",
}


class Counter(QWidget):
    """An icon, a number, a word."""

    def __init__(self, theme: Theme, icon: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._icon_name = icon
        self._icon = QLabel()
        self.number = TextLabel("number", wrap=False)
        self._word = TextLabel("small", wrap=False)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self._icon)
        texts = QVBoxLayout()
        texts.setSpacing(0)
        texts.addWidget(self.number)
        texts.addWidget(self._word)
        row.addLayout(texts, 1)
        theme.changed.connect(self._redraw)
        self._redraw()

    def set_number(self, number: int) -> None:
        self.number.setText(str(number))
        self._describe()

    def set_word(self, word: str) -> None:
        self._word.setText(word)
        self._describe()

    def _describe(self) -> None:
        self.setAccessibleName(f"{self._word.text()}: {self.number.text()}")

    def _redraw(self) -> None:
        icon = self._theme.icon(self._icon_name, self._theme.tokens.text_muted)
        self._icon.setPixmap(icon.pixmap(self._theme.icon_size, self.devicePixelRatio()))


class EnoughBar(QWidget):
    """How far the way is to "enough", in words and as a bar."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name = TextLabel("body")
        self.amount = TextLabel("small", wrap=False)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        line = QHBoxLayout()
        line.addWidget(self._name, 1)
        line.addWidget(self.amount)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(line)
        column.addWidget(self.bar)

    def show_amount(self, name: str, have: int, wanted: int, words: str) -> None:
        self._name.setText(name)
        self.amount.setText(words)
        self.bar.setRange(0, max(1, wanted))
        self.bar.setValue(min(have, wanted))
        self.bar.setProperty("done", have >= wanted)
        self.bar.setAccessibleName(f"{name}: {words}")
        restyle(self.bar)


class CollectedCard(Card):
    """Four counters, two bars, one sentence."""

    def __init__(
        self, feedback: FeedbackService, theme: Theme, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent=parent)
        self._feedback = feedback
        self._title = TextLabel("heading")
        self.counters = {kind: Counter(theme, _ICONS[kind]) for kind in _KINDS}
        grid = QGridLayout()
        grid.setVerticalSpacing(12)
        grid.setHorizontalSpacing(16)
        for place, counter in enumerate(self.counters.values()):
            grid.addWidget(counter, place // 2, place % 2)
        self.imitate = EnoughBar()
        self.taste = EnoughBar()
        self.sentence = TextLabel("muted")
        for part in (self._title, grid, self.imitate, self.taste, self.sentence):
            if isinstance(part, QGridLayout):
                self.column.addLayout(part)
            else:
                self.column.addWidget(part)
        self.column.setSpacing(12)
        feedback.collected_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Count again and say it."""
        have = self._feedback.collected()
        words = {
            "liked": self.tr("liked"),
            "disliked": self.tr("not liked"),
            "comparisons": self.tr("comparisons"),
            "corrections": self.tr("corrections"),
        }
        for kind, counter in self.counters.items():
            counter.set_word(words[kind])
            counter.set_number(getattr(have, kind))
        self._title.setText(self.tr("What your model can learn from"))
        for bar, name, number, wanted in (
            (
                self.imitate,
                self.tr("Good answers to imitate"),
                have.demonstrations,
                have.demonstrations_wanted,
            ),
            (
                self.taste,
                self.tr("Judgements that show your taste"),
                have.preferences,
                have.preferences_wanted,
            ),
        ):
            amount = (
                self.tr("{0}, enough").format(number)
                if number >= wanted
                else self.tr("{0} of {1}").format(number, wanted)
            )
            bar.show_amount(name, number, wanted, amount)
        self.sentence.setText(self._plan(have))

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self.refresh()
        super().changeEvent(event)

    def _plan(self, have: Collected) -> str:
        """What a training would do now, or what is missing."""
        more_examples = have.demonstrations_wanted - have.demonstrations
        more_judgements = have.preferences_wanted - have.preferences
        if have.is_enough_for_sft and have.is_enough_for_reward:
            return self.tr(
                "Your model will imitate the good answers, learn your taste from your judgements,"
                " and then practise until it meets it more often."
            )
        if have.is_enough_for_sft:
            more = self.tr(
                "With %n more judgement(s) it can also learn your taste and practise.",
                "",
                more_judgements,
            )
            if have.is_one_sided:  # more of the same kind would not help
                more = self.tr("Thumbs up and down, or comparisons, would show your taste as well.")
            return self.tr("Your model will imitate the good answers.") + " " + more
        if have.is_enough_for_reward:
            return (
                self.tr("Your model will learn your taste and practise.")
                + " "
                + self.tr(
                    "With %n more good answer(s) it can also imitate them.", "", more_examples
                )
            )
        return self.tr(
            "Like or correct %n more answer(s), and your model can learn from them.",
            "",
            more_examples,
        )
