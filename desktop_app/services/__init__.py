"""The GUI thread's view of the world: QtCore objects between the widgets and the rest."""
