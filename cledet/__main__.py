"""The `cledet` command, and `python -m cledet`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C during its imports ends it with the same message as later."""
    try:
        from cledet.cli import main as run
    except KeyboardInterrupt:
        print("error: stopped by SIGINT", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
