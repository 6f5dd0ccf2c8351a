"""The window: conversations on the left, the chat in the middle, learning on the right.

It places the parts and connects them to the services; what a part shows and how is the
part's own business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from PySide6.QtCore import QByteArray, QEvent, Qt, QTimer
from PySide6.QtGui import QCloseEvent, QResizeEvent
from PySide6.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QMainWindow,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from desktop_app.paths import Profile
from desktop_app.services.chat_service import ChatService
from desktop_app.services.engine_service import EngineState, Refused
from desktop_app.services.feedback_service import FeedbackService, UndoOffer
from desktop_app.services.learning_service import LearningService
from desktop_app.settings import Settings
from desktop_app.storage.chat_store import Overflow
from desktop_app.ui.chat_page import ChatPage
from desktop_app.ui.comparison_view import is_writing
from desktop_app.ui.controls import IconButton, confirm
from desktop_app.ui.conversation_list import ConversationList
from desktop_app.ui.header import Header
from desktop_app.ui.language import Language
from desktop_app.ui.learning_panel import LearningPanel
from desktop_app.ui.notices import Action
from desktop_app.ui.run_notices import RunNotices
from desktop_app.ui.sentences import in_our_language
from desktop_app.ui.settings_dialog import SettingsDialog
from desktop_app.ui.shortcuts import Shortcuts
from desktop_app.ui.theme import MAX_SCALE, MIN_SCALE, Theme
from desktop_app.ui.trash_notice import TrashNotice
from desktop_app.ui.trial_view import TrialView
from desktop_app.ui.window_state import WindowState, load_window_state, save_window_state

SIDEBAR_WIDTH: Final = 248
PANEL_WIDTH: Final = 368
CENTRE_WIDTH: Final = 400
"""Less room than this between side bar and panel, and the side bar makes way."""
ZOOM_STEP: Final = 0.1
DRAFT_SAVE_MS: Final = 2000


class MainWindow(QMainWindow):
    """All of Attune's parts in one window.

    Args:
        settings: the choices in force.
        save_settings: called with new choices; it keeps them and puts them in force.
        profile: where the window's own state is kept.
    """

    def __init__(
        self,
        chat: ChatService,
        feedback: FeedbackService,
        learning: LearningService,
        theme: Theme,
        settings: Settings,
        save_settings: Callable[[Settings], None],
        language: Language,
        profile: Profile,
    ) -> None:
        super().__init__()
        self._chat = chat
        self._feedback = feedback
        self._learning = learning
        self._theme = theme
        self._settings = settings
        self._change_settings = save_settings
        self._language = language
        self._profile = profile
        self._settings_dialog: SettingsDialog | None = None
        self._sidebar_wanted = True
        self.setMinimumSize(720, 520)
        self.resize(1080, 720)
        application = QApplication.instance()
        if isinstance(application, QApplication):
            theme.install(application)
        self.setWindowIcon(theme.app_icon())
        self._build()
        self._connect()
        self._restore()
        self._on_engine(chat.engine.state)
        self.composer.set_busy(chat.is_busy)
        self._on_opened(chat.current_conversation)
        self.shortcuts = Shortcuts(self)
        self._settings_button.clicked.connect(self.show_settings)
        self._keys_button.clicked.connect(self.shortcuts.show_list)
        self._retranslate()
        self._run_notices.tell_at_start()
        self.composer.setFocus()

    # --- what the keys and buttons do ---

    def new_conversation(self) -> None:
        self._learning.end_trial()
        self._chat.new_conversation()
        self.composer.setFocus()

    def search(self) -> None:
        self.show_sidebar(True)
        self.conversations.search.setFocus()
        self.conversations.search.selectAll()

    def regenerate(self) -> None:
        """Another answer for the last turn."""
        path = self._chat.messages(self._chat.current_conversation)
        if not path or self._chat.is_busy or self._is_in_trial():
            return
        if path[-1].role == "assistant":
            self._chat.regenerate(path[-1].id)
        else:
            self._chat.answer_again(path[-1].id)

    def escape(self) -> None:
        """Stop writing; or leave the search."""
        if self.conversations.search.hasFocus():
            self.conversations.search.clear()
            self.composer.setFocus()
        else:
            self._chat.stop()

    def undo_feedback(self) -> None:
        self._feedback.undo()

    def toggle_panel(self) -> None:
        self.show_panel(self.panel.isHidden())

    def toggle_sidebar(self) -> None:
        self.show_sidebar(self.sidebar.isHidden())

    def zoom(self, steps: int) -> None:
        """Larger (+1) or smaller (-1) text; 0 is the system's size again."""
        scale = self._theme.font_scale + steps * ZOOM_STEP if steps else 1.0
        scale = round(min(MAX_SCALE, max(MIN_SCALE, scale)), 2)
        self._on_settings(replace(self._settings, font_scale=scale))
        if self._settings_dialog is not None:
            self._settings_dialog.show_settings(self._settings)

    def show_settings(self) -> None:
        if self._settings_dialog is None:
            dialog = SettingsDialog(self._settings, self._profile.root, self)
            dialog.changed.connect(self._on_settings)
            self._settings_dialog = dialog
        self._settings_dialog.show_settings(self._settings)
        self._settings_dialog.show()
        self._settings_dialog.activateWindow()

    def show_problem(self, message: str, hint: str = "") -> None:
        """Also the last stop of an exception nobody expected."""
        state = self._chat.engine.state
        if state.refused is not None and message == state.refused.message:
            return  # it has a notice of its own, with buttons
        if state.status == "failed" and message == state.message:
            self._show_engine_failure(f"{message} {hint}".strip())
            return
        self.notices.show_notice(
            "problem", in_our_language(message), in_our_language(hint), kind="problem"
        )

    # --- Qt ---

    def changeEvent(self, event: QEvent) -> None:
        if event.type() == QEvent.Type.LanguageChange:
            self._retranslate()
        super().changeEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._make_room()

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._learning.state == "training" and not confirm(
            self,
            self.tr("A training is running."),
            self.tr("If Attune closes, the training stops. You can resume it next time."),
            self.tr("Stop and close"),
            self.tr("Keep open"),
        ):
            event.ignore()
            return
        self._draft_timer.stop()
        self._save_state()
        super().closeEvent(event)

    # --- building ---

    def _build(self) -> None:
        theme = self._theme
        self.conversations = ConversationList(self._chat, theme)
        self.sidebar = QWidget()
        self.sidebar.setObjectName("sidebar")
        self.sidebar.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.sidebar.setMinimumWidth(200)
        side = QVBoxLayout(self.sidebar)
        side.setContentsMargins(0, 12, 1, 8)
        side.addWidget(self.conversations, 1)
        self._settings_button = IconButton(theme, "settings")
        self._keys_button = IconButton(theme, "keyboard")
        side_foot = QHBoxLayout()
        side_foot.setContentsMargins(12, 0, 12, 0)
        side_foot.addWidget(self._settings_button)
        side_foot.addWidget(self._keys_button)
        side_foot.addStretch(1)
        side.addLayout(side_foot)

        self.header = Header(theme)
        self.chat_page = ChatPage(self._chat, self._feedback, theme)
        self.view = self.chat_page.view
        self.notices = self.chat_page.notices
        self.composer = self.chat_page.composer
        self.trial = TrialView(self._learning, theme)
        self._trash = TrashNotice(self._chat, self._feedback, self.notices, self)
        self.pages = QStackedWidget()
        self.pages.addWidget(self.chat_page)
        self.pages.addWidget(self.trial)
        centre = QWidget()
        centre.setObjectName("centre")
        centre.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        middle = QVBoxLayout(centre)
        middle.setContentsMargins(0, 0, 0, 0)
        middle.setSpacing(0)
        middle.addWidget(self.header)
        middle.addWidget(self.pages, 1)

        self.panel = LearningPanel(self._learning, self._feedback, theme)
        self._run_notices = RunNotices(
            self._learning, self.panel.learning_page, self.notices, self._show_learning, self
        )
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setChildrenCollapsible(False)
        self.splitter.setHandleWidth(1)
        for widget in (self.sidebar, centre, self.panel):
            self.splitter.addWidget(widget)
        self.splitter.setStretchFactor(1, 1)
        for index in (0, 2):
            self.splitter.setStretchFactor(index, 0)
        self.splitter.setSizes([SIDEBAR_WIDTH, 1000, PANEL_WIDTH])
        self.setCentralWidget(self.splitter)
        theme.changed.connect(self._make_room)
        self._draft_timer = QTimer(self)
        self._draft_timer.setSingleShot(True)
        self._draft_timer.setInterval(DRAFT_SAVE_MS)

    def _connect(self) -> None:
        chat, feedback, learning = self._chat, self._feedback, self._learning
        chat.conversation_opened.connect(self._on_opened)
        chat.conversations_changed.connect(self._show_title)
        chat.busy_changed.connect(self.composer.set_busy)
        chat.engine.state_changed.connect(self._on_engine)
        chat.context_changed.connect(self.header.meter.set_context)
        chat.problem.connect(self.show_problem)
        feedback.undo_changed.connect(self._on_feedback)
        learning.problem.connect(self.show_problem)
        learning.versions_changed.connect(self._show_version)

        self.composer.submitted.connect(self._send)
        self.composer.stop_requested.connect(chat.stop)
        self.composer.field.textChanged.connect(self._save_soon)
        self.view.drafts_changed.connect(self._save_soon)
        self._draft_timer.timeout.connect(self._save_state)
        self.conversations.deleted.connect(self._trash.tell)
        listed = self.conversations
        clicks = listed.view.clicked, listed.new_button.clicked
        for turned_away in (listed.deleted, listed.view.activated, *clicks):
            turned_away.connect(lambda *_: learning.end_trial())
        for click in clicks:  # who moves by keys stays in the list
            click.connect(lambda *_: self.composer.setFocus())
        self.header.status.restart_requested.connect(self._restart_model)
        self.header.status.cancel_requested.connect(chat.engine.cancel_load)
        self.header.overflow_chosen.connect(self._choose_overflow)
        self.header.sidebar_toggled.connect(self.toggle_sidebar)
        self.header.panel_toggled.connect(self.toggle_panel)
        self.header.rename_requested.connect(self._rename_open)
        self.header.delete_requested.connect(self._delete_open)
        self.panel.trial_requested.connect(self._start_trial)
        self.panel.problem.connect(self.show_problem)
        self.trial.finished.connect(self._leave_trial)
        self.trial.problem.connect(self.show_problem)

    # --- what the services say ---

    def _on_opened(self, conversation_id: str) -> None:
        self._learning.end_trial()
        self.composer.show_conversation(conversation_id)
        self._show_title()
        if conversation_id:
            self.header.set_overflow(self._chat.context.overflow(conversation_id))

    def _show_title(self) -> None:
        titles = {c.id: c.title for c in self._chat.conversations()}
        title = titles.get(self._chat.current_conversation, "")
        self.header.set_title(title)
        self.setWindowTitle(f"{title} — Attune" if title else "Attune")

    def _on_engine(self, state: EngineState) -> None:
        self.header.status.set_state(state)
        self.composer.set_ready(state.status == "ready")
        self._show_version()
        if state.refused is not None and state.status in ("ready", "failed"):
            self._show_refusal(state.refused, is_ready=state.status == "ready")
        elif state.status == "failed":
            self._show_engine_failure(state.message)
        elif state.refused is None:
            self.notices.dismiss("engine")

    def _show_refusal(self, refused: Refused, *, is_ready: bool) -> None:
        """Why a model was not loaded, and what can be done about it."""
        if refused.reason == "does_not_fit":
            hint = self.tr("Close other programs, choose a smaller model, or load it anyway.")
            actions = [Action(self.tr("Load anyway"), self._load_anyway)]
        elif refused.reason == "crashed":
            hint = self.tr("It is not loaded by itself any more.")
            actions = [Action(self.tr("Try again"), self._load_anyway)]
        else:
            hint = self.tr("No model is loaded now.")
            actions = [Action(self.tr("Load it after all"), self._load_anyway)]
        if is_ready:
            hint = self.tr("The model before is used instead.")
        bundled = self._learning.versions()[0].version_id
        if not is_ready and (refused.model.version_id != bundled or self._chat.engine.fallback):
            actions.append(Action(self.tr("Use the bundled model"), self._use_bundled))
        self.notices.show_notice(
            "engine", in_our_language(refused.message), hint, kind="problem", actions=actions
        )

    def _use_bundled(self) -> None:
        engine = self._chat.engine
        if engine.fallback is not None:
            engine.load(engine.fallback)
        else:
            self._learning.activate(self._learning.versions()[0].version_id)

    def _show_engine_failure(self, why: str) -> None:
        self.notices.show_notice(
            "engine",
            self.tr("The model is not running."),
            in_our_language(why),
            kind="problem",
            actions=[Action(self.tr("Restart model"), self._restart_model)],
        )

    def _on_feedback(self, offer: UndoOffer | None) -> None:
        if offer is None:
            self.notices.dismiss("feedback")
            return
        sentences = {
            "liked": self.tr("Noted: you like this answer."),
            "disliked": self.tr("Noted: you do not like this answer."),
            "correction": self.tr("Your correction is kept. The model can learn from it."),
            "comparison": self.tr("Your choice is kept."),
            "cleared": self.tr("The rating was taken back."),
            "correction_cleared": self.tr("The correction was taken back."),
        }
        undo = Action(self.tr("Undo"), self._feedback.undo)
        self.notices.show_notice("feedback", sentences[offer.kind], actions=[undo], seconds=5.0)

    def _show_learning(self) -> None:
        self.panel.tabs.setCurrentIndex(0)
        self.show_panel(True)
        self.panel.tabs.tabBar().setFocus()  # the button that was pressed is gone

    def _show_version(self) -> None:
        """The version that answers: where the active one was refused, another one does."""
        loaded, state = self._chat.engine.model, self._chat.engine.state
        answers = loaded.version_id if loaded and state.status == "ready" else ""
        names = {v.version_id: v.name for v in self._learning.versions()}
        name = names.get(answers or self._learning.active_version(), "")
        self.header.status.set_version(name)

    # --- what the parts ask for ---

    def _send(self, text: str, compare: bool) -> None:
        self._chat.send(text, compare=compare or self._is_turn_to_compare())
        self.composer.clear()  # not reached where sending failed: the text stays
        self.view.scroll_to_end()

    def _is_turn_to_compare(self) -> bool:
        every = self._settings.compare_every
        path = self._chat.messages(self._chat.current_conversation)
        turns = sum(message.role == "user" for message in path) + 1
        return every > 0 and turns % every == 0

    def _restart_model(self) -> None:
        self.notices.dismiss("engine")
        self.notices.dismiss("problem")
        self._chat.engine.restart()

    def _load_anyway(self) -> None:
        self._chat.engine.load_anyway()

    def _choose_overflow(self, overflow: Overflow) -> None:
        self._chat.context.set_overflow(self._chat.current_conversation, overflow)

    def _rename_open(self) -> None:
        self.show_sidebar(True)
        self.conversations.search.clear()
        self.conversations.refresh()
        self.conversations.rename(self._chat.current_conversation)

    def _delete_open(self) -> None:
        self.conversations.delete(self._chat.current_conversation)

    def _start_trial(self, version_id: str) -> None:
        self._chat.stop()
        if self.trial.start(version_id):
            self.pages.setCurrentWidget(self.trial)
            self.trial.setFocus()

    def _leave_trial(self) -> None:
        self.pages.setCurrentWidget(self.chat_page)
        if not is_writing(self.focusWidget()):
            self.composer.setFocus()

    def _is_in_trial(self) -> bool:
        return self.pages.currentWidget() is self.trial

    # --- settings and state ---

    def _on_settings(self, settings: Settings) -> None:
        self._settings = settings
        self._change_settings(settings)

    def _restore(self) -> None:
        state = load_window_state(self._profile.root)
        if state.geometry:
            self.restoreGeometry(QByteArray.fromBase64(QByteArray(state.geometry.encode())))
        if len(state.sizes) == self.splitter.count() and all(state.sizes):
            self.splitter.setSizes(state.sizes)
        here = {"", *(conversation.id for conversation in self._chat.conversations())}
        self.composer.restore_drafts({k: text for k, text in state.drafts.items() if k in here})
        self.view.restore_drafts({k: more for k, more in state.corrections.items() if k in here})
        self.show_sidebar(state.sidebar_open)
        self.show_panel(state.panel_open)

    def _save_soon(self) -> None:
        if not self._draft_timer.isActive():  # or it would wait for a pause in the writing
            self._draft_timer.start()

    def _save_state(self) -> None:
        geometry = bytes(self.saveGeometry().toBase64().data()).decode("ascii")
        sizes = self.splitter.sizes()
        state = WindowState(
            geometry,
            self._sidebar_wanted,
            not self.panel.isHidden(),
            sizes if all(sizes) else load_window_state(self._profile.root).sizes,
            self.composer.drafts(),
            self.view.drafts(),
        )
        save_window_state(self._profile.root, state)

    def show_panel(self, is_open: bool) -> None:
        self.panel.setVisible(is_open)
        self.header.panel_button.setChecked(is_open)
        self._make_room()

    def show_sidebar(self, is_open: bool) -> None:
        self._sidebar_wanted = is_open
        if is_open and not self._fits_all():
            self.panel.hide()
            self.header.panel_button.setChecked(False)
        self.sidebar.setVisible(is_open)

    def _make_room(self) -> None:
        """In a narrow window the panel comes before the side bar."""
        makes_way = not self.panel.isHidden() and not self._fits_all()
        self.sidebar.setVisible(self._sidebar_wanted and not makes_way)

    def _fits_all(self) -> bool:
        needed = SIDEBAR_WIDTH + CENTRE_WIDTH + PANEL_WIDTH
        return self.width() >= needed * self._theme.font_scale

    def _retranslate(self) -> None:
        self._show_title()
        self._settings_button.set_name(self.tr("Settings"), "Ctrl+,")
        self._keys_button.set_name(self.tr("Keyboard shortcuts"), "F1")
        self.shortcuts.retranslate()
