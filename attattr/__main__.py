"""``python -m attattr``: attribute, evaluate, train and reproduce from the command line."""

import sys

from .book.commands import main

if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"attattr: {error}")  # in words; a traceback says no more to whoever typed the command
