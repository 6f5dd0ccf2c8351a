"""The real window, talking to itself until it is killed: for the test that kills it.

Says on stdout how many characters it has shown, and once the engine child's process id.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

from desktop_app import app as app_module
from desktop_app.inference.engine_client import engine_command


def main(profile: Path) -> None:
    app_module.engine_command = lambda *_: engine_command(  # type: ignore[assignment]
        "--fake", "--seconds-per-token", "0.01"
    )
    application = QApplication([])
    app = app_module.App(app_module.open_profile(profile), app_module.Options())
    length = 0

    def count(_message_id: str, text: str) -> None:
        nonlocal length
        length += len(text)
        print(length, flush=True)

    app.chat.text_appended.connect(count)
    app.start()
    QTimer.singleShot(0, lambda: app.chat.send("!long one two three four five"))
    QTimer.singleShot(500, lambda: print("child", app.engine.process_id, flush=True))
    application.exec()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
