"""The trainer's command line: ``python -m finetune COMMAND``.

Commands: train, resume, evaluate, export, convert, starter, doctor.

Events go to stdout as JSON lines (sentences on a terminal). Exit codes: 0 done, 1 failed,
2 error of use (one sentence on stderr), 3 stopped and resumable.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from finetune.contract.errors import InputError


class _Parser(argparse.ArgumentParser):
    """Errors of use are one sentence."""

    def error(self, message: str) -> NoReturn:
        sentence = message[:1].upper() + message[1:]
        self.exit(2, f"{sentence.rstrip('.')}. See {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run one command, return its exit code."""
    # Waiting threads that spin take the core away from the one they wait for.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Where numpy multiplies matrices here, threads are at work already, one piece each.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["starter"]:
        # Hours of small products on a machine of its own: spinning for a moment before they
        # sleep, two threads read 6,600 tokens/s instead of 4,100 (OpenMP puts this first).
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    options = _parser(with_starter=given[:1] == ["starter"]).parse_args(given)
    try:
        code: int = options.run(options)
        return code
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"{error.strerror or error}{where}.", file=sys.stderr)
        return 2


def _parser(*, with_starter: bool) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m finetune",
        description="Teach a GGUF model from ratings, comparisons and corrections.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    train = commands.add_parser("train", help="SFT, reward model, PPO, evaluation, export")
    train.add_argument("--run-dir", type=Path, required=True, help="the run's folder")
    train.add_argument("--base", type=Path, help="GGUF to train, for a new run")
    train.add_argument(
        "--feedback", type=Path, nargs="+", default=[], help="files or folders of JSON lines"
    )
    train.add_argument("--recipe", type=Path, help="JSON; what it leaves out keeps its default")
    train.add_argument(
        "--weights", type=Path, help="Hugging Face folder of the same model, to train instead"
    )
    train.add_argument("--parent", help="version id the result descends from")
    train.add_argument("--name", help="what to call the result")
    _add_tensorboard(train)
    train.set_defaults(run=_train)

    resume = commands.add_parser("resume", help="go on with a stopped or broken run")
    resume.add_argument("--run-dir", type=Path, required=True)
    _add_tensorboard(resume)
    resume.set_defaults(run=_resume)

    evaluate = commands.add_parser("evaluate", help="measure an adapter against its base")
    evaluate.add_argument("--base", type=Path, required=True)
    evaluate.add_argument("--adapter", type=Path, required=True)
    evaluate.add_argument("--feedback", type=Path, nargs="+", required=True)
    evaluate.add_argument("--recipe", type=Path)
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=_evaluate)

    export = commands.add_parser("export", help="write a run's merged model in another form")
    export.add_argument("--run-dir", type=Path, required=True)
    export.add_argument(
        "--quantization",
        required=True,
        help="BASE (as the base has it), F16, Q8_0, Q6_K, Q5_K_M or Q4_K_M",
    )
    export.add_argument("--output", type=Path, required=True)
    export.set_defaults(run=_export)

    doctor = commands.add_parser("doctor", help="what this machine can train, and how fast")
    doctor.add_argument("--model", type=Path, help="does this GGUF fit, and how long will it take?")
    doctor.add_argument("--feedback", type=Path, nargs="+", default=[], help="time for just this")
    doctor.add_argument("--recipe", type=Path)
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)

    convert = commands.add_parser("convert", help="KoChatGPT's files to records")
    convert.add_argument("--feedback", type=Path, nargs="+", required=True)
    convert.add_argument("--output", type=Path, required=True)
    convert.add_argument(
        "--ranking",
        choices=("best_first", "places"),
        default="best_first",
        help="whether a ranking lists completions from the best on, or gives each its place",
    )
    convert.set_defaults(run=_convert)

    starter = commands.add_parser("starter", help="make the bundled model from scratch")
    if with_starter:  # its arguments come with seconds of imports
        from finetune.starter.main import add_arguments, run

        add_arguments(starter)
        starter.set_defaults(run=run)
    return parser


def _train(options: argparse.Namespace) -> int:
    from finetune.run_folder import prepare_run

    if options.base is not None:
        with _leader_first() as leads:
            if leads:
                prepare_run(
                    options.run_dir,
                    options.base,
                    options.feedback,
                    options.recipe,
                    options.parent,
                    options.name,
                    options.weights,
                )
    elif any((options.feedback, options.recipe, options.parent, options.name, options.weights)):
        raise InputError("A new run needs --base; an existing one takes --run-dir alone.")
    return _run(options, resumed=False)


@contextmanager
def _leader_first() -> Iterator[bool]:
    """Under torchrun the first process prepares the folder that all of them work in."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
        return
    from finetune import distributed

    distributed.start()
    with distributed.leader_first():
        yield distributed.leads()


def _resume(options: argparse.Namespace) -> int:
    return _run(options, resumed=True)


def _add_tensorboard(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tensorboard", action="store_true", help="also write RUN_DIR/tensorboard"
    )


def _run(options: argparse.Namespace, *, resumed: bool) -> int:
    from finetune.console import open_event_stream
    from finetune.runner import run_to_end

    return run_to_end(
        options.run_dir,
        open_event_stream(),
        resumed=resumed,
        tensorboard=options.tensorboard,
    )


def _evaluate(options: argparse.Namespace) -> int:
    from finetune.reports import evaluate_adapter

    return evaluate_adapter(
        options.base, options.adapter, options.feedback, options.recipe, as_json=options.json
    )


def _export(options: argparse.Namespace) -> int:
    from finetune.export_again import export_again

    return export_again(options.run_dir, options.quantization, options.output)


def _convert(options: argparse.Namespace) -> int:
    from finetune.convert import convert

    return convert(options.feedback, options.output, options.ranking)


def _doctor(options: argparse.Namespace) -> int:
    from finetune.reports import doctor

    return doctor(options.model, options.recipe, options.feedback, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
