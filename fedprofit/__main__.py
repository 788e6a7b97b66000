"""Entry point of `python -m fedprofit` and of the installed command."""

import sys

from fedprofit.core.processes import INTERRUPTED, answer_interrupts, end_interrupted

RESUMABLE = {
    "run": "resume with --resume",
    "study": "resume with --resume",
    "quickstart": "run it again to resume",
}


def main() -> None:
    """Run the command line. Ctrl-C ends it with one line, also during imports."""
    known = RESUMABLE.get(sys.argv[1]) if len(sys.argv) > 1 else None
    line = f"stopped; {known}" if known else "stopped"
    answer_interrupts(line)
    try:
        from fedprofit.cli import main as run

        run()
    except KeyboardInterrupt:
        end_interrupted(line)
    except SystemExit as ended:
        if ended.code != INTERRUPTED:  # typer's exit status for Ctrl-C
            raise
        end_interrupted(line)


if __name__ == "__main__":
    main()
