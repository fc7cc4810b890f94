"""``python -m singleout``: the command line."""

from singleout.cli import main

if __name__ == "__main__":
    main()
