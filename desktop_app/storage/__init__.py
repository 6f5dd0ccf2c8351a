"""What the person said and thought of it, in one SQLite file. No Qt here."""
