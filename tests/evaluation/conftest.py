"""The command line for all tests of this folder."""

from tests.support.command_line import run as run
