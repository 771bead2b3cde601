"""`python -m cledet`."""

from cledet.cli import main

if __name__ == "__main__":
    main()
