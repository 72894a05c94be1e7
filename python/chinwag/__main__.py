"""`python -m chinwag` is the command `chinwag`."""

from chinwag.cli import main

if __name__ == "__main__":
    main()
