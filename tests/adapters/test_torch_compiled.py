"""`adapters.torch.ScalableViT.compiled`: the eager network's numbers, compiled once for each shape, and anew after a change.

The compiler itself takes a minute for the smallest network: all tests but a nightly one put another in its place.
"""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scalablevit_ref as sv
from scalablevit_ref.adapters import torch_compiled
from scalablevit_ref.adapters.torch import ScalableViT
from scalablevit_ref.adapters.torch_compiled import Compiled
from scalablevit_ref.testing import EPS, NETWORK_TOLERANCE, random_images, random_params, relative_l2
from tests.support.profiles import is_nightly

NIGHTLY = is_nightly()

CONFIG = sv.ScalableViTConfig(
    embed_dims=(8,),
    depths=(1,),
    num_heads=(2,),
    mlp_ratios=(2,),
    sr_ratios=(1,),
    c_ratios=(1,),
    window_sizes=(2,),
    patch_size=2,
    num_classes=5,
    in_chans=1,
    head="linear",
)

pytestmark = pytest.mark.usefixtures("as_in_production")


class Compiler:
    """In the compiler's place: exports modules as it does, runs what was exported, and keeps the shapes."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, network: nn.Module, images: Tensor) -> Callable[[Tensor], Any]:
        self.shapes.append(tuple(images.shape))
        with torch.no_grad():
            exported = torch.export.export(network, (images,), strict=False).module()
            exported.load_state_dict({name: x.clone() for name, x in exported.state_dict().items()}, assign=True)  # constants

        def run(images: Tensor) -> Any:
            assert images.is_contiguous()  # as machine code takes it to be
            assert not torch.is_grad_enabled()
            return exported(images)

        return run


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(torch_compiled, "packaged", made)
    return made


def network(**options: Any) -> ScalableViT:
    return ScalableViT(CONFIG, params=random_params(sv.parameter_shapes(CONFIG), dtype="float32"), **options)


def images(batch: int = 2) -> Tensor:
    return torch.from_numpy(random_images((batch, 1, 8, 8), dtype="float32"))


def small() -> nn.Sequential:
    """What takes no time to trace: `Compiled` holds whatever module there is."""
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(first=nn.Linear(4, 8), drop=nn.Dropout(0.9), last=nn.Linear(8, 3)))


def rows(batch: int = 2) -> Tensor:
    return torch.linspace(-1, 1, 4 * batch).reshape(batch, 4)


def agrees(found: Tensor, expected: Tensor) -> bool:
    error = relative_l2(found.detach().numpy().astype("float64"), expected.detach().numpy().astype("float64"))
    return error <= NETWORK_TOLERANCE["float32"] * EPS["float32"]


def test_it_is_the_network_in_eval_mode_without_gradients(compiler: Compiler) -> None:
    eager = network(drop_path_rate=0.9, drop_rate=0.5).train()
    compiled = eager.compiled()
    found = compiled(images())
    assert eager.training
    assert not compiled.training
    assert not found.requires_grad
    assert not any(p.requires_grad for p in compiled.parameters())
    assert all(p.requires_grad for p in eager.parameters())
    assert agrees(found, eager.eval()(images()))
    assert list(compiled.state_dict()) == list(eager.state_dict()) == list(sv.parameter_shapes(CONFIG))
    with pytest.raises(Exception, match="channels"):
        compiled(torch.zeros(2, 3, 8, 8))


def test_a_shape_is_compiled_once(compiler: Compiler) -> None:
    """Each as it is, not for any size, for which a compiler makes worse code."""
    compiled, eager = Compiled(small()), small().eval()
    for batch in (2, 2, 5, 2, 3, 5):
        assert agrees(compiled(rows(batch)), eager(rows(batch)))
    assert compiler.shapes == [(2, 4), (5, 4), (3, 4)]
    assert agrees(compiled(rows(4).T.contiguous().T), eager(rows(4)))  # however the images lie


def test_what_is_loaded_is_what_runs(compiler: Compiler) -> None:
    """Also where the tensors themselves take the place of those that were compiled."""
    compiled, other = Compiled(small()), small().eval()
    nn.init.constant_(other.last.bias, 7)
    before = compiled(rows())
    for assign in (False, True):
        compiled.load_state_dict(small().state_dict(), assign=assign)
        assert torch.equal(compiled(rows()), before)
        compiled.load_state_dict(other.state_dict(), assign=assign)
        assert agrees(compiled(rows()), other(rows()))
    assert len(compiler.shapes) == 5


def test_what_becomes_of_the_network_does_not_reach_it(compiler: Compiler) -> None:
    eager = small()
    compiled = Compiled(eager)
    before = compiled(rows())
    nn.init.constant_(eager.last.bias, 7)
    eager.first = nn.Linear(4, 8)
    assert torch.equal(compiled(rows()), before)
    assert len(compiler.shapes) == 1


def test_a_weight_that_is_written_to_is_compiled_anew(compiler: Compiler) -> None:
    """As a constant of what was compiled it would be the old one."""
    compiled, changed = Compiled(small()), small().eval()
    compiled(rows())
    for one in (compiled, changed):
        with torch.no_grad():
            one.get_parameter("first.weight").mul_(2)
    assert agrees(compiled(rows()), changed(rows()))
    assert len(compiler.shapes) == 2
    compiled(rows())
    assert len(compiler.shapes) == 2


def test_another_dtype_is_compiled_anew(compiler: Compiler) -> None:
    compiled = Compiled(small())
    compiled(rows())
    wide = compiled.to(torch.float64)(rows().double())
    assert wide.dtype == torch.float64
    assert torch.allclose(wide, small().eval().double()(rows().double()), rtol=1e-12)
    assert len(compiler.shapes) == 2
    rounded = Compiled(small())
    rounded(rows())
    assert torch.equal(rounded.half().float()(rows()), small().half().float().eval()(rows()))


def test_a_pickle_is_of_the_network_alone(compiler: Compiler) -> None:
    compiled = Compiled(small())
    before = compiled(rows())
    again = pickle.loads(pickle.dumps(compiled))
    assert torch.equal(again(rows()), before)
    assert len(compiler.shapes) == 2


def test_hooks(compiler: Compiler) -> None:
    """Those that the network has are compiled with it, those inside that come later are seen, its own run at every call."""
    eager = small().eval()
    handle = eager.first.register_forward_hook(lambda module, given, found: 2 * found)
    compiled = Compiled(eager)
    doubled = compiled(rows())
    assert agrees(doubled, eager(rows()))
    handle.remove()
    assert not agrees(doubled, eager(rows()))
    assert torch.equal(compiled(rows()), doubled)  # it is the copy that runs
    later = compiled.get_submodule("last").register_forward_hook(lambda module, given, found: 3 * found)
    assert agrees(compiled(rows()), 3 * doubled)
    later.remove()
    assert agrees(compiled(rows()), doubled)
    calls: list[int] = []
    compiled.register_forward_hook(lambda module, given, found: calls.append(len(found)))
    compiled(rows())
    compiled(rows(3))
    compiled(rows())
    assert calls == [2, 3, 2]


def test_a_hook_that_cannot_be_copied_is_the_same_one(compiler: Compiler) -> None:
    class Recorder:
        def hook(self, module: nn.Module, given: Any, found: Tensor) -> Tensor:
            return found + 1

        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied")

    eager = small().eval()
    before = eager(rows())
    eager.last.register_forward_hook(Recorder().hook)
    assert agrees(Compiled(eager)(rows()), before + 1)


def test_a_place_in_a_larger_module(compiler: Compiler) -> None:
    larger = nn.Sequential(Compiled(small()), nn.Linear(3, 2)).train()
    assert not larger[0].training
    assert not larger[0].drop.training
    assert list(larger.state_dict())[:2] == ["0.first.weight", "0.first.bias"]
    assert larger(rows()).requires_grad  # by the layer behind it
    twice = copy.deepcopy(larger)
    assert agrees(twice(rows()), larger(rows()))
    nn.init.constant_(larger[0].last.bias, 7)
    assert not agrees(twice(rows()), larger(rows()))


@pytest.mark.skipif(not NIGHTLY, reason="minutes of compilation")
@pytest.mark.filterwarnings("ignore")
def test_the_compiler_itself() -> None:
    """Its package is gone from the disk when it runs, and a weight that is written to afterwards is not an old constant."""
    compiled, eager = network().compiled(), network().eval()
    for batch in (2, 1, 2):
        assert agrees(compiled(images(batch)), eager(images(batch)))
    with torch.no_grad():
        for one in (compiled, eager):
            one.get_parameter("head.weight").mul_(2)
    assert agrees(compiled(images()), eager(images()))
