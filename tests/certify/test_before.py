"""What is asked before a run of balls: the memory that it takes, and whether there is as much."""

from __future__ import annotations

import subprocess
import sys

import pytest

import scalablevit_ref as sv
from scalablevit_ref import run_cost as bounds
from scalablevit_ref.certify import certificate
from scalablevit_ref.certify.before import KEPT, SHORT, ball_bytes, check_balls
from scalablevit_ref.certify.certificate import certify
from scalablevit_ref.networks import network_of
from scalablevit_ref.run_cost import CostError, run_cost
from scalablevit_ref.testing import random_images, random_params

CONFIG = sv.variant("digits", depths=(1, 1, 1, 1), pad_windows=True)
IMAGE = (1, 1, 112, 112)

GROWTH = """
from pathlib import Path
import scalablevit_ref as sv
from scalablevit_ref.certify.truth import truth
from scalablevit_ref.networks import network_of
from scalablevit_ref.testing import random_images, random_params

def most():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

config = sv.variant("digits", depths=(1, 1, 1, 1), pad_windows=True)
images = random_images({image}, dtype="float32")
params = random_params(sv.parameter_shapes(config), dtype="float32")
before = most()
truth(network_of(config), images, params, bits={bits}, width=float("inf"))
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file says how much memory a process has had")
@pytest.mark.parametrize("bits", [106, 640])
def test_memory_is_what_is_measured(bits: int) -> None:
    script = GROWTH.format(image=IMAGE, bits=bits)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    cost = run_cost(network_of(CONFIG), IMAGE, whole=True)
    estimate = cost.memory // 8 * ball_bytes(bits) + cost.kept // 8 * KEPT
    assert int(done.stdout) <= estimate <= 3 * int(done.stdout)


def test_more_than_the_machine_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of balls, where the same run in float64 would have memory enough; with more bits, sooner."""
    network = network_of(CONFIG)
    cost, weights = run_cost(network, IMAGE, whole=True), sum(x.nbytes for x in random_params(network.parameter_shapes()).values())
    most = cost.memory * 10 + cost.kept * 5 + weights
    monkeypatch.setattr(bounds, "machine_memory", lambda: most)
    check_balls(network, IMAGE, bits=106)
    for bits in (136, 640):
        with pytest.raises(CostError, match=r"MB of memory at once, .* weights and images on this machine; costly=True"):
            check_balls(network, IMAGE, bits=bits)
    check_balls(network, IMAGE, bits=640, costly=True)
    monkeypatch.setattr(bounds, "machine_memory", lambda: most - 1)
    with pytest.raises(CostError):
        certify(random_images(IMAGE), random_params(network.parameter_shapes()), CONFIG, [])


def test_a_try_with_more_bits_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for the first try, and not for the one that it takes."""
    images, params = random_images(IMAGE), random_params(network_of(CONFIG).parameter_shapes())
    asked: list[int] = []

    def check(network: object, image: object, *, bits: int, costly: bool) -> None:
        asked.append(bits)
        if bits > SHORT:
            raise CostError("too much")

    monkeypatch.setattr(certificate, "check_balls", check)
    with pytest.raises(CostError, match="too much"):
        certify(images, params, CONFIG, [], bits=60)
    assert asked[0] == 60
    assert asked[-1] > SHORT
