"""The question before a link is opened: where does it really lead?"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QMessageBox, QWidget

LONGEST_ADDRESS: Final = 300


class LinkQuestion(QMessageBox):
    """Shows the whole host and asks; the link opens only when the person says so.

    The host is shown as the network knows it (punycode), so that look-alike letters show.
    """

    def __init__(self, url: QUrl, parent: QWidget) -> None:
        super().__init__(parent)
        self._url = url
        coded = QUrl.ComponentFormattingOption.FullyEncoded
        place = url.path(coded) if url.scheme().lower() == "mailto" else url.host(coded)
        address = self._address = bytes(url.toEncoded().data()).decode("ascii", "replace")
        if len(address) > LONGEST_ADDRESS:
            address = address[:LONGEST_ADDRESS] + "…"
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setIcon(QMessageBox.Icon.Question)
        self.setWindowTitle(self.tr("Open this link?"))
        self.setText(self.tr("This link leads to {0}.").format(place))
        # The informative text of a message box has no format of its own: "<" would be HTML.
        self.setInformativeText(address.replace("<", "%3C"))
        role = QMessageBox.ButtonRole
        self._open = self.addButton(self.tr("Open in the browser"), role.AcceptRole)
        self._copy = self.addButton(self.tr("Copy the address"), role.ActionRole)
        cancel = self.addButton(self.tr("Cancel"), role.RejectRole)
        self.setDefaultButton(cancel)
        self.setEscapeButton(cancel)
        self.finished.connect(self._act)

    def _act(self) -> None:
        if self.clickedButton() is self._open:
            QDesktopServices.openUrl(self._url)
        elif self.clickedButton() is self._copy:
            QGuiApplication.clipboard().setText(self._address)
