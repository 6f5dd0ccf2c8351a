"""The person's choices. Every change is in force at once; closing keeps it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from PySide6.QtCore import QEvent, QObject, QSignalBlocker, Qt, QTimer, QUrl, Signal
from PySide6.QtGui import QAccessible, QAccessibleAnnouncementEvent, QDesktopServices, QShowEvent
from PySide6.QtWidgets import (
    QComboBox,
    QDialog,
    QDoubleSpinBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QPlainTextEdit,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from desktop_app.settings import Settings
from desktop_app.ui.controls import Button, Card, ElidedLabel, TextLabel
from desktop_app.ui.language import LANGUAGES

TYPING_PAUSE_MS: Final = 400
WIDTH: Final = 600
FONT_SCALES: Final = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0)
COMPARE_CHOICES: Final = (0, 10, 5, 3)
LONGEST_SYSTEM_PROMPT: Final = 4000


class _WheelGuard(QObject):
    """Lets the wheel scroll the page past a field; only the field with the focus turns by it."""

    def guard(self, field: QWidget) -> None:
        field.setFocusPolicy(Qt.FocusPolicy.StrongFocus)  # the wheel does not give it the focus
        field.installEventFilter(self)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() != QEvent.Type.Wheel:
            return False
        is_passing = isinstance(watched, QWidget) and not watched.hasFocus()
        if is_passing:
            event.ignore()
        return is_passing


class SettingsDialog(QDialog):
    """Shown beside the window, not in its way.

    Signals:
        changed(Settings): a choice was made.
    """

    changed = Signal(object)

    def __init__(
        self, settings: Settings, data_folder: Path, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._settings = settings
        self._data_folder = data_folder
        self._titles = [TextLabel("heading", wrap=False) for _ in range(3)]
        self._hints: list[TextLabel] = [TextLabel("small") for _ in range(5)]
        self._labels: dict[str, TextLabel] = {}
        self._is_prompt_too_long = False

        self.language = QComboBox()
        self.appearance = QComboBox()
        self.font_scale = QComboBox()
        self.system_prompt = QPlainTextEdit()
        self.system_prompt.setTabChangesFocus(True)
        self.system_prompt.setFixedHeight(72)
        self.temperature = QDoubleSpinBox()
        self.temperature.setRange(0.0, 2.0)
        self.temperature.setSingleStep(0.1)
        self.temperature.setDecimals(1)
        self.max_tokens = QSpinBox()
        self.max_tokens.setRange(16, 8192)
        self.max_tokens.setSingleStep(64)
        for spin in (self.temperature, self.max_tokens):
            spin.lineEdit().setTextMargins(6, 0, 0, 0)
        self.compare_every = QComboBox()
        self._fill_choices()
        wheel = _WheelGuard(self)
        choices = (self.language, self.appearance, self.font_scale, self.compare_every)
        for field in (*choices, self.temperature, self.max_tokens):
            wheel.guard(field)

        page = QWidget()
        page.setObjectName("panelPage")
        self._column = column = QVBoxLayout(page)
        column.setContentsMargins(24, 20, 24, 8)
        column.setSpacing(12)
        column.addWidget(self._titles[0])
        column.addWidget(
            self._form(
                ("language", self.language, None),
                ("appearance", self.appearance, None),
                ("font_scale", self.font_scale, None),
            )
        )
        column.addWidget(self._titles[1])
        column.addWidget(
            self._form(
                ("system_prompt", self.system_prompt, self._hints[0]),
                ("temperature", self.temperature, self._hints[1]),
                ("max_tokens", self.max_tokens, self._hints[2]),
                ("compare_every", self.compare_every, self._hints[3]),
            )
        )
        column.addWidget(self._titles[2])
        column.addWidget(self._data_card())
        self.close_button = Button("primary")
        column.addStretch(1)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll.setWidget(page)
        buttons = QHBoxLayout()
        buttons.setContentsMargins(24, 8, 24, 20)
        buttons.addStretch(1)
        buttons.addWidget(self.close_button)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self._scroll, 1)
        outer.addLayout(buttons)

        self._typing = QTimer(self)
        self._typing.setSingleShot(True)
        self._typing.setInterval(TYPING_PAUSE_MS)
        self._typing.timeout.connect(self._collect)
        self.show_settings(settings)
        for box in (self.language, self.appearance, self.compare_every):
            box.activated.connect(self._collect)
        self.font_scale.activated.connect(self._choose_scale)
        self.temperature.valueChanged.connect(self._collect)
        self.max_tokens.valueChanged.connect(self._collect)
        self.system_prompt.textChanged.connect(self._typing.start)
        self.system_prompt.textChanged.connect(self._say_whether_too_long)
        self.folder_button.clicked.connect(self._show_folder)
        self.close_button.clicked.connect(self.close)
        self._retranslate()

    def show_settings(self, settings: Settings) -> None:
        """Show choices that were made elsewhere (zoom keys)."""
        self._settings = settings
        for box, value in (
            (self.language, settings.language),
            (self.appearance, settings.appearance),
            (self.compare_every, settings.compare_every),
        ):
            box.setCurrentIndex(max(0, box.findData(value)))
        nearest = min(FONT_SCALES, key=lambda scale: abs(scale - settings.font_scale))
        self.font_scale.setCurrentIndex(FONT_SCALES.index(nearest))
        spins: tuple[QDoubleSpinBox | QSpinBox, ...] = (self.temperature, self.max_tokens)
        blockers = [QSignalBlocker(widget) for widget in (*spins, self.system_prompt)]
        self.temperature.setValue(settings.temperature)
        self.max_tokens.setValue(settings.max_tokens)
        if self.system_prompt.toPlainText() != settings.system_prompt:
            self.system_prompt.setPlainText(settings.system_prompt)
        del blockers
        self._say_whether_too_long()

    def showEvent(self, event: QShowEvent) -> None:
        """As high as its contents, and not higher than the screen."""
        column = self._column
        column.activate()  # fonts and sizes are known only now
        width = max(WIDTH, column.minimumSize().width())
        wanted = column.totalHeightForWidth(width) + self.close_button.sizeHint().height() + 32
        room = self.screen().availableGeometry().height() - 64
        self.resize(width, min(wanted, room))
        super().showEvent(event)

    def done(self, result: int) -> None:
        if self._typing.isActive():
            self._typing.stop()
            self._collect()
        super().done(result)

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    # --- inside ---

    def _form(self, *rows: tuple[str, QWidget, TextLabel | None]) -> Card:
        card = Card()
        form = QFormLayout()
        form.setHorizontalSpacing(24)
        form.setVerticalSpacing(14)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        for name, field, hint in rows:
            label = TextLabel("body", wrap=False)
            label.setBuddy(field)
            label.setContentsMargins(0, 4, 0, 0)  # on the line of the field's text
            self._labels[name] = label
            if hint is None:
                form.addRow(label, field)
                continue
            pair = QVBoxLayout()
            pair.setSpacing(4)
            pair.addWidget(field)
            pair.addWidget(hint)
            form.addRow(label, pair)
        card.column.addLayout(form)
        return card

    def _data_card(self) -> Card:
        card = Card()
        row = QHBoxLayout()
        texts = QVBoxLayout()
        texts.setSpacing(2)
        path = ElidedLabel("body")
        path.setText(str(self._data_folder))
        texts.addWidget(path)
        texts.addWidget(self._hints[4])
        self.folder_button = Button("plain")
        row.addLayout(texts, 1)
        row.addWidget(self.folder_button)
        card.column.addLayout(row)
        return card

    def _fill_choices(self) -> None:
        self.language.addItem("", "")
        for code, name in LANGUAGES.items():
            self.language.addItem(name, code)
        for code in ("system", "light", "dark"):
            self.appearance.addItem("", code)
        for scale in FONT_SCALES:
            self.font_scale.addItem(f"{round(scale * 100)} %", scale)
        for number in COMPARE_CHOICES:
            self.compare_every.addItem("", number)

    def _choose_scale(self) -> None:
        """Only here: the zoom keys set sizes between those that can be chosen."""
        self._put_in_force(replace(self._settings, font_scale=self.font_scale.currentData()))

    def _collect(self) -> None:
        settings = replace(
            self._settings,
            language=self.language.currentData(),
            appearance=self.appearance.currentData(),
            system_prompt=self._prompt()[:LONGEST_SYSTEM_PROMPT],
            temperature=round(self.temperature.value(), 2),
            max_tokens=self.max_tokens.value(),
            compare_every=self.compare_every.currentData(),
        )
        self._put_in_force(settings)

    def _put_in_force(self, settings: Settings) -> None:
        if settings != self._settings:
            self._settings = settings
            self.changed.emit(settings)

    def _prompt(self) -> str:
        return self.system_prompt.toPlainText().strip()

    def _say_whether_too_long(self) -> None:
        """Beside the field, in place of its hint, and aloud: the rest is not kept."""
        is_too_long = len(self._prompt()) > LONGEST_SYSTEM_PROMPT
        if is_too_long == self._is_prompt_too_long:
            return
        self._is_prompt_too_long = is_too_long
        self._retranslate()
        if is_too_long:
            said = QAccessibleAnnouncementEvent(self.system_prompt, self._hints[0].text())
            QAccessible.updateAccessibility(said)

    def _show_folder(self) -> None:
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(self._data_folder)))

    def _retranslate(self) -> None:
        self.setWindowTitle(self.tr("Settings"))
        for label, text in zip(
            self._titles, (self.tr("Window"), self.tr("Answers"), self.tr("Your data")), strict=True
        ):
            label.setText(text)
        names = {
            "language": self.tr("Language"),
            "appearance": self.tr("Appearance"),
            "font_scale": self.tr("Text size"),
            "system_prompt": self.tr("System prompt"),
            "temperature": self.tr("Temperature"),
            "max_tokens": self.tr("Longest answer"),
            "compare_every": self.tr("Offer a comparison"),
        }
        for name, text in names.items():
            self._labels[name].setText(text)
            field = getattr(self, name)
            field.setAccessibleName(text)
            if isinstance(field, QComboBox):
                field.view().setAccessibleName(text)
        told = self.tr("What the model is told before every conversation.")
        if self._is_prompt_too_long:
            told = self.tr("Only the first {0} characters are kept.").format(
                f"{LONGEST_SYSTEM_PROMPT:,}"
            )
        hints = (
            told,
            self.tr("Low: predictable answers. High: more varied ones."),
            self.tr("In tokens; a token is about four letters of English or one or two of Korean."),
            self.tr("Now and then two answers are written, and you choose the better one."),
            self.tr("Conversations, feedback, models and training runs."),
        )
        for label, text in zip(self._hints, hints, strict=True):
            label.setText(text)
        self.system_prompt.setPlaceholderText(self.tr("None"))
        self.language.setItemText(0, self.tr("Like the system"))
        for index, text in enumerate(
            (self.tr("Like the system"), self.tr("Light"), self.tr("Dark"))
        ):
            self.appearance.setItemText(index, text)
        self.compare_every.setItemText(0, self.tr("Only when I ask"))
        for index, number in enumerate(COMPARE_CHOICES[1:], start=1):
            self.compare_every.setItemText(index, self.tr("With every %n message(s)", "", number))
        self.folder_button.setText(self.tr("Open folder"))
        self.close_button.setText(self.tr("Done"))
