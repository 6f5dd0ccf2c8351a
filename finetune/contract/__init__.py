"""What the app and the trainer promise each other: prompts, records, events, recipes, files."""
