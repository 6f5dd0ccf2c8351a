"""Where Tab leads in a list whose widgets come and go.

Qt's own chain has the order in which widgets were made; a virtual list makes them in the order
in which they are scrolled to.
"""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QWidget


def tab_target(place: QWidget, rows: Iterable[QWidget], *, forward: bool) -> QWidget | None:
    """The widget that Tab (or Shift+Tab) should lead to from where the focus is.

    Args:
        place: the list; the focus is on it or on something inside.
        rows: what stands in it, in the order that is seen.
    """
    chain = [w for row in rows for w in row.findChildren(QWidget) if _is_tab_stop(w)]
    focused = place.focusWidget()
    if focused in chain:
        index = chain.index(focused) + (1 if forward else -1)
        if 0 <= index < len(chain):
            return chain[index]
        if not forward:
            return place
    elif forward:
        in_sight = [widget for widget in chain if not widget.visibleRegion().isEmpty()]
        if in_sight:
            return in_sight[0]
    return _outside(place, forward)


def _outside(place: QWidget, forward: bool) -> QWidget | None:
    """The next stop beyond the list."""
    start = place.focusWidget() or place
    widget = start.nextInFocusChain() if forward else start.previousInFocusChain()
    while widget is not None and widget is not start:
        if not place.isAncestorOf(widget) and widget is not place and _is_tab_stop(widget):
            return widget
        widget = widget.nextInFocusChain() if forward else widget.previousInFocusChain()
    return None


def _is_tab_stop(widget: QWidget) -> bool:
    takes_tab = widget.focusPolicy() & Qt.FocusPolicy.TabFocus
    return bool(takes_tab) and widget.isVisible() and widget.isEnabled()
