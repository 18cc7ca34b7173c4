"""`python -m scalablevit_ref` is the command line."""

from scalablevit_ref.cli import app

if __name__ == "__main__":
    app(prog_name="scalablevit-ref")
