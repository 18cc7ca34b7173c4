"""`python -m scalablevit_ref` is the command line."""

from scalablevit_ref.cli import main

if __name__ == "__main__":
    main()
