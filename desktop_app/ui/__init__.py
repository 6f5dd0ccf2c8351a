"""Widgets. They know services, and neither SQL nor llama.cpp nor processes."""
