"""The proof. Arrays are small here: one thread for each process is more than twice as fast as a pool that waits for work."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when NumPy's and torch's libraries are loaded

import pytest

pytest.register_assert_rewrite("tests.support", "tests.programs")  # a failing assert there says what it compared, as in a test
