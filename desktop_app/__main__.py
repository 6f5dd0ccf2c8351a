"""The command ``attune``: arguments, and the window."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from desktop_app.inference.engine_client import ENGINE_CHILD


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run the application. Returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == [ENGINE_CHILD]:  # a frozen build has one executable for both
        from desktop_app.inference import engine_process

        return engine_process.main(given[1:])
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
    known = parser.parse_args(given)
    # Qt is imported only now: --help and errors of use answer at once and without a screen.
    from desktop_app.app import Options, run

    return run(Options(known.profile_dir, known.model, known.fake_engine))


if __name__ == "__main__":
    sys.exit(main())
