"""Which of a candidate's modules is which layer: by the official names, by a mapping, or by the parameters that it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from scalablevit_ref.compare.capture.captured import CaptureError
from scalablevit_ref.config import near_matches
from scalablevit_ref.errors import option
from scalablevit_ref.networks import Network


@dataclass(frozen=True)
class Module:
    """A module of the candidate that ran: its path, its parameters' shapes by name in its own order, and the size of its output."""

    path: str
    shapes: Mapping[str, tuple[int, ...]]
    size: int

    @property
    def signature(self) -> tuple[int, ...]:
        return tuple(sorted(prod(shape) for shape in self.shapes.values()))


def aligned(
    paths: Iterable[str],
    params: Collection[str],
    ran: Callable[[], Sequence[Module]],
    network: Network,
    images: Sequence[int],
    mapping: Mapping[str, str] | None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Layers to the candidate's modules, and official parameters to its own.

    params: the names of its parameters. ran: gives the modules in the order in which they ended, where names do not tell.
    Raises CaptureError where a parameter has no partner.
    """
    paths, shapes = set(paths), network.parameter_shapes()
    found = by_name(paths, network)
    first = next(iter(network.layers()))
    prefix = found.get(first, first).removesuffix(first)
    if mapping is None and all(prefix + name in params for name in shapes):
        return found, {name: prefix + name for name in shapes}
    modules = ran()
    found = found | by_mapping(mapping, paths, network) if mapping is not None else by_parameters(modules, network, images)
    known = {module.path: module for module in modules}
    pairs = parameter_names({name: path for name, path in found.items() if path in known}, known, network)
    missing = [name for name in shapes if name not in pairs]
    if missing:
        raise CaptureError(
            f"no module of the candidate has the sizes of {missing[0]}{f' and {len(missing) - 1} others' if missing[1:] else ''}; "
            "names= maps canonical names to its modules, ",
            option("variant"),
            " says which network it is",
        )
    return found, pairs


def by_name(paths: Iterable[str], network: Network) -> dict[str, str]:
    """Canonical names to paths, where the paths are the official ones, perhaps all behind one prefix ("backbone.")."""
    paths, names = set(paths), [name for name in network.layers() if name != "logits"]
    prefixes = {path.removesuffix(names[0]) for path in paths if path.endswith(names[0])} | {""}
    found = [{name: prefix + name for name in names if prefix + name in paths} for prefix in sorted(prefixes)]
    return max(found, key=len)


def by_mapping(mapping: Mapping[str, str], paths: Iterable[str], network: Network) -> dict[str, str]:
    """A user's mapping of canonical names to paths; "{k}" and "{i}" stand for every stage and block.

    Raises CaptureError for a name or a path that there is not.
    """
    paths, known, found = set(paths), network.layers(), expanded(mapping, network.layers())
    for name, target in found.items():
        if name not in known:
            raise CaptureError(f"names: there is no layer {name!r}{near_matches(name, known)}")
        if target not in paths:
            raise CaptureError(f"names: {name!r} is mapped to {target!r}, which the candidate lacks{near_matches(target, paths)}")
    return found


def expanded(mapping: Mapping[str, str], known: Iterable[str]) -> dict[str, str]:
    """A mapping without "{k}" and "{i}": each of its patterns for every known layer of that form."""
    known = set(known)
    numbers = range(1 + max((int(number) for name in known for number in re.findall(r"\d+", name)), default=0))
    found = {}
    for pattern, path in mapping.items():
        for k, i in product(numbers, repeat=2) if "{" in pattern else [(0, 0)]:
            name, target = (text.replace("{k}", str(k)).replace("{i}", str(i)) for text in (pattern, path))
            if "{" not in pattern or name in known:
                found[name] = target
    return found


def by_parameters(modules: Sequence[Module], network: Network, images: Sequence[int]) -> dict[str, str]:
    """Layers to modules that hold parameters of the same sizes and give as many values, in the order in which they ran.

    The longest sequence that is common to both; layers without a partner are left out.
    """
    shapes, sizes = network.parameter_shapes(), network.layer_shapes(images)
    wanted = []
    for name in network.layers():  # a block after its parts: in the order in which they end
        own = tuple(sorted(prod(shape) for key, shape in shapes.items() if key.startswith(f"{name}.")))
        if own:
            wanted.append((name, (own, prod(sizes[name]))))
    keys = {module.path: (module.signature, module.size) for module in modules}
    outer = [path for path in keys if not any(keys[path] == keys.get(around) for around in _around(path))]
    pairs = _common([key for _, key in wanted], [keys[path] for path in outer])
    return {wanted[i][0]: outer[j] for i, j in pairs}


def _around(path: str) -> Iterator[str]:
    """The modules that this one is part of: one that adds no parameters, as PEG does to its convolution, counts as the layer."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _common(a: Sequence[object], b: Sequence[object]) -> list[tuple[int, int]]:
    """The longest common subsequence, as pairs of positions."""
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in product(reversed(range(len(a))), reversed(range(len(b)))):
        best[i][j] = best[i + 1][j + 1] + 1 if a[i] == b[j] else max(best[i + 1][j], best[i][j + 1])
    pairs, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i + 1][j] >= best[i][j + 1]:
            i += 1
        else:
            j += 1
    return pairs


def parameter_names(found: Mapping[str, str], modules: Mapping[str, Module], network: Network) -> dict[str, str]:
    """Official parameter names to the candidate's, for layers that were found: by the same local name, else by size and order.

    Raises CaptureError where a layer's parameters do not pair up.
    """
    pairs: dict[str, str] = {}
    shapes = network.parameter_shapes()
    for name, path in sorted(found.items(), key=lambda item: -item[0].count(".")):
        own = {key: shape for key, shape in shapes.items() if key.startswith(f"{name}.") and key not in pairs}
        theirs = dict(modules[path].shapes)
        taken = set(pairs.values())
        for key, shape in own.items():
            local = key.removeprefix(f"{name}.")
            same = [f"{path}.{t}" for t, size in theirs.items() if prod(size) == prod(shape) and f"{path}.{t}" not in taken]
            beside = pairs.get(f"{key.rpartition('.')[0]}.weight", ".").rpartition(".")[0]  # where its weight is, a bias is
            role = _same_role(local, same) or same
            fits = [t for t in same if t == f"{path}.{local}"] or [t for t in role if t.rpartition(".")[0] == beside] or role
            if not fits:
                raise CaptureError(
                    f"{path}, taken for {name}, has no parameter of {prod(shape)} values for {key}; names= maps by hand"
                )
            pairs[key] = fits[0]
            taken.add(fits[0])
    return pairs


def _same_role(local: str, names: Sequence[str]) -> list[str]:
    """Those that are a weight, or a bias, as `local` is."""
    bias = re.compile(r"(bias|\bb|beta|shift)$")
    return [name for name in names if bool(bias.search(name)) == bool(bias.search(local))]
