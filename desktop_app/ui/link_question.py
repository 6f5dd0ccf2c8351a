"""The question before a link is opened: where does it really lead?"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import QCoreApplication, Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QMessageBox, QWidget

LONGEST_ADDRESS: Final = 300


def ask_to_open(parent: QWidget, url: QUrl) -> QMessageBox:
    """Show the whole host and ask; the link opens only when the person says so.

    The host is shown as the network knows it (punycode), so that look-alike letters show.
    """
    coded = QUrl.ComponentFormattingOption.FullyEncoded
    if url.scheme().lower() == "mailto":
        place = url.path(coded)
    else:
        place = url.host(coded)
    address = bytes(url.toEncoded().data()).decode("ascii", "replace")
    if len(address) > LONGEST_ADDRESS:
        address = address[:LONGEST_ADDRESS] + "…"

    box = QMessageBox(parent.window())
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setIcon(QMessageBox.Icon.Question)
    box.setWindowTitle(_tr("Open this link?"))
    box.setText(_tr("This link leads to {place}.").format(place=place))
    # The informative text of a message box has no format of its own: "<" would be HTML.
    box.setInformativeText(address.replace("<", "%3C"))
    open_button = box.addButton(_tr("Open in the browser"), QMessageBox.ButtonRole.AcceptRole)
    copy_button = box.addButton(_tr("Copy the address"), QMessageBox.ButtonRole.ActionRole)
    cancel_button = box.addButton(QMessageBox.StandardButton.Cancel)
    box.setDefaultButton(cancel_button)
    box.setEscapeButton(cancel_button)

    def answer() -> None:
        if box.clickedButton() is open_button:
            QDesktopServices.openUrl(url)
        elif box.clickedButton() is copy_button:
            QGuiApplication.clipboard().setText(url.toString())

    box.finished.connect(answer)
    box.open()
    return box


def _tr(text: str) -> str:
    return QCoreApplication.translate("LinkQuestion", text)
