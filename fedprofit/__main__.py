"""Run the command line with `python -m fedprofit`, and as the installed command."""

import sys

from fedprofit.core.processes import INTERRUPTED, answer_interrupts, end_interrupted

RESUMABLE = {
    "run": "resume with --resume",
    "study": "resume with --resume",
    "quickstart": "run it again to resume",
}


def main() -> None:
    """Run the command line; Ctrl-C ends it with one line, also while it is still being imported."""
    known = RESUMABLE.get(sys.argv[1]) if len(sys.argv) > 1 else None
    line = f"stopped; {known}" if known else "stopped"
    answer_interrupts(line)
    try:
        from fedprofit.cli import main as run

        run()
    except KeyboardInterrupt:
        end_interrupted(line)
    except SystemExit as ended:
        if ended.code != INTERRUPTED:  # what typer makes of Ctrl-C
            raise
        end_interrupted(line)


if __name__ == "__main__":
    main()
