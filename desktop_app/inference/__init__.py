"""Running models: the engine child, the model versions on disk. No Qt here."""
