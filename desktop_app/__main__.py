"""The command ``attune``: arguments, and the window."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the application. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="attune", description="Chat with a model on this computer that learns from you."
    )
    parser.add_argument(
        "--profile-dir",
        type=Path,
        metavar="DIR",
        help="keep conversations, feedback and models in this folder",
    )
    parser.add_argument(
        "--model", type=Path, metavar="FILE.gguf", help="chat with this model, not the bundled one"
    )
    parser.add_argument(
        "--fake-engine",
        action="store_true",
        help="answer with an echo instead of a model (for trying the window)",
    )
    known = parser.parse_args(arguments)
    # Qt is imported only now: --help and errors of use answer at once and without a screen.
    from desktop_app.app import Options, run

    return run(Options(known.profile_dir, known.model, known.fake_engine))


if __name__ == "__main__":
    sys.exit(main())
