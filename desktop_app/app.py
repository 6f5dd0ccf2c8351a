"""Builds everything once, connects it, and owns the order of leaving.

The start-up as a story: the profile folder is opened and locked, so that no second Attune
writes there. The log begins. The database opens (mended or refused in words), then the
stores, then the services. The window is shown at once; only then is the engine child started
and the active model loaded, so that nothing slow stands before the first paint; a large file
that was never seen before is read through first, on a thread, to know it by its hash. At the end,
in reverse: the turn being written is kept, the engine child and the trainer are let go
(both also leave by themselves when this process dies, since their stdin closes), and the
database is closed last.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sqlite3
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PySide6.QtCore import QCoreApplication, QLockFile, QObject, QTimer
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QApplication, QMessageBox

from desktop_app.errors import UserError, install_excepthook, sentence
from desktop_app.inference.engine_client import EngineClient, engine_command
from desktop_app.inference.model_store import ModelStore, ref_of_file
from desktop_app.paths import Profile, open_profile, starter_model
from desktop_app.services.chat_service import ChatService
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.services.file_check import FileCheck
from desktop_app.services.learning_service import LearningService
from desktop_app.services.saving import saving
from desktop_app.services.trainer_process import TRAINER_COMMAND, TrainerProcess
from desktop_app.settings import Settings, load_settings, save_settings
from desktop_app.storage.chat_store import ChatStore
from desktop_app.storage.database import Database
from desktop_app.storage.feedback_store import FeedbackStore
from desktop_app.storage.load_record import LoadRecord
from desktop_app.ui.language import Language
from desktop_app.ui.main_window import MainWindow
from desktop_app.ui.sentences import in_our_language
from desktop_app.ui.theme import Theme

log = logging.getLogger(__name__)

APP_ID = "org.attune.Attune"


@dataclass(frozen=True)
class Options:
    """What the command line can choose."""

    profile_dir: Path | None = None
    model: Path | None = None
    """Chat with this GGUF instead of the bundled one."""
    fake_engine: bool = False


class App(QObject):
    """All long-lived objects of one window."""

    def __init__(self, profile: Profile, options: Options) -> None:
        super().__init__()
        self.profile = profile
        self.settings = load_settings(profile.settings)
        self.database = Database(profile.database)
        chats = ChatStore(self.database)
        feedback_store = FeedbackStore(self.database)
        self.models = ModelStore(
            profile.models, options.model or starter_model(), is_chosen=options.model is not None
        )
        self._is_starter_replaced = options.model is not None and starter_model().is_file()

        self.chat = ChatService(chats, self)
        self.feedback = FeedbackService(chats, feedback_store, parent=self)
        self.trainer = TrainerProcess(TRAINER_COMMAND, self)
        self.learning = LearningService(
            profile.runs,
            self.models,
            feedback_store,
            self.chat,
            self.feedback,
            self.trainer,
            self,
        )
        states = profile.states
        command = engine_command(
            *(["--fake"] if options.fake_engine else ["--states", str(states)])
        )
        self.engine = EngineClient(
            command, self.chat.engine.receive, profile.logs / "engine.log", states_folder=states
        )

        self.theme = Theme(self)
        self.language = Language(self)
        self._apply_settings(self.settings)
        application = QApplication.instance()
        assert isinstance(application, QApplication)
        self.theme.install(application)
        self.window = MainWindow(
            self.chat,
            self.feedback,
            self.learning,
            self.theme,
            self.settings,
            self._change_settings,
            self.language,
            profile,
        )
        self._check: FileCheck | None = None
        self._is_closed = False
        self.chat.engine.start_wanted.connect(self._start_engine)
        self.chat.engine.check_cancelled.connect(self._cancel_check)

    def start(self) -> None:
        """Show the window, whatever the disk does not take, then start what is slow."""
        problem: tuple[str, str] | None = None
        try:
            self.chat.open_last()
        except (UserError, OSError, sqlite3.Error) as error:
            log.exception("The last conversation could not be opened")
            problem = sentence(error)
        self.window.show()
        if problem is not None:
            self.chat.problem.emit(*problem)
        QTimer.singleShot(0, self._start_engine)

    def close(self) -> None:
        """Keep everything and let the children go. Safe to call twice."""
        if self._is_closed:
            return
        self._is_closed = True
        clipboard = QGuiApplication.clipboard()
        if clipboard.ownsClipboard():
            # What was copied in Python must not outlive Python; Qt's own copy may.
            clipboard.setText(clipboard.text())
        if self._check is not None:
            self._check.close()
        # Each for itself: a full disk must not leave a child or the database behind.
        for leave in (
            self.chat.close,
            self.learning.close,
            self.database.back_up_daily,
            self.database.close,
        ):
            try:
                leave()
            except (UserError, OSError, sqlite3.Error):
                log.exception("Leaving was not clean")

    def _start_engine(self) -> None:
        try:
            if self.models.must_hash:
                self._check = FileCheck(self.models.hash_bundled, self)
                self._check.progressed.connect(self.chat.engine.show_check)
                self._check.ended.connect(self._on_checked)
                self.chat.engine.show_check(0.0)
                self._check.start()
                return
        except (UserError, OSError, ValueError) as error:
            log.exception("The model's file cannot be read")
            self.chat.engine.fail(*sentence(error))
            return
        self._load_active()

    def _cancel_check(self) -> None:
        if self._check is not None:
            self._check.cancel()

    def _on_checked(self, message: str, hint: str) -> None:
        assert self._check is not None
        if message:
            self.chat.engine.fail(message, hint)
        elif self._check.is_cancelled:
            self.chat.engine.fail("Loading was stopped.", "")
        else:
            self.models.forget_provisional()
            self.learning.versions_changed.emit()
            self._load_active()

    def _load_active(self) -> None:
        for problem in (self.database.notice, *self.models.problems()):
            if problem:
                self.chat.problem.emit(problem, "")
        loads = LoadRecord(self.profile.models / "loads.json")
        try:
            if self._is_starter_replaced:
                self.chat.engine.fallback = ref_of_file(starter_model())
            self.chat.engine.attach(self.engine, self.models.active(), loads)
        except (UserError, OSError, ValueError) as error:
            log.exception("The engine could not be started")
            self.chat.engine.fail(*sentence(error))

    def _change_settings(self, settings: Settings) -> None:
        """In force at once, also where the disk does not take it."""
        self.settings = settings
        self._apply_settings(settings)
        try:
            with saving():
                save_settings(self.profile.settings, settings)
        except UserError as error:
            self.chat.problem.emit(error.message, error.hint)

    def _apply_settings(self, settings: Settings) -> None:
        self.language.set(settings.language)
        self.theme.set_appearance(settings.appearance)
        self.theme.set_font_scale(settings.font_scale)
        self.chat.system_prompt = settings.system_prompt
        self.feedback.system_prompt = settings.system_prompt
        self.chat.sampling = replace(
            self.chat.sampling,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
        )


def run(options: Options, qt_arguments: Sequence[str] = ()) -> int:
    """Open the window and stay until it is closed. Returns the exit code."""
    if sys.platform == "linux" and not any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    ):
        # Qt would end the process with an abort.
        print("There is no screen to open a window on. Start Attune on a desktop.", file=sys.stderr)
        return 1
    QCoreApplication.setApplicationName("Attune")
    QGuiApplication.setDesktopFileName(APP_ID)
    application = QApplication(["attune", *qt_arguments])
    profile: Profile | None = None
    try:
        profile = open_profile(options.profile_dir)
        lock = lock_profile(profile)
        _begin_log(profile.logs)
        app = App(profile, options)
    except (UserError, ValueError, OSError) as error:
        _refuse(error, profile)
        return 1
    install_excepthook(app.chat.problem.emit)
    application.aboutToQuit.connect(app.close)
    app.start()
    code = application.exec()
    app.close()
    lock.unlock()
    return code


def lock_profile(profile: Profile) -> QLockFile:
    """Keep every other Attune out of the folder for as long as the lock lives.

    Raises:
        UserError: another one is there, or nothing can be written there.
    """
    lock = QLockFile(str(profile.root / "attune.lock"))
    if lock.tryLock(100):
        return lock
    if lock.error() is QLockFile.LockError.LockFailedError:
        raise UserError(
            "Attune is open already with this profile.",
            "Use the window that is open, or start with another --profile-dir.",
        )
    raise UserError(
        f"Attune cannot write in the folder {profile.root}.",
        "Check that it is yours and that the disk is not full, or choose another one with "
        "--profile-dir.",
    )


def _refuse(error: Exception, profile: Profile | None) -> None:
    """Say why there is no window, in the person's language."""
    language = Language()
    language.set(load_settings(profile.settings).language if profile else "")
    if profile is not None and isinstance(error, OSError):
        error = UserError(
            f"The folder {profile.root} cannot be used: {error.strerror or error}.",
            "Choose another one with --profile-dir.",
        )
    message, hint = (in_our_language(part) for part in sentence(error))
    print(f"{message} {hint}".strip(), file=sys.stderr)
    QMessageBox.critical(None, "Attune", f"{message}\n\n{hint}".strip())


def _begin_log(folder: Path) -> None:
    """Errors and life events, never what people write."""
    handler = logging.handlers.RotatingFileHandler(
        folder / "app.log", maxBytes=1_000_000, backupCount=2, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
