"""Attune's desktop application: a chat window over llama.cpp that learns from its user."""
