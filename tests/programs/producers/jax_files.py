"""Flax, Orbax, optax, Haiku, Equinox and NumPy: trees of arrays with channels last, or official names."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import scalablevit_ref as sv
from tests.programs.producers.made import CONFIG, Made, Reading, arrays, file, producer, weights

NUMPY = {"library": "NumPy", "distribution": "numpy"}
FLAX = {"library": "Flax", "distribution": "flax"}
ORBAX = {"library": "Orbax", "distribution": "orbax-checkpoint", "needs": ("orbax.checkpoint", "flax")}


def kernels(seed: int = 0) -> dict[str, np.ndarray]:
    """The weights as Flax has them, under official paths."""
    return dict(sv.to_state_dict(weights(seed), CONFIG, layout="channels_last"))


def tree(flat: Mapping[str, Any], *, numbers: bool = False) -> dict[Any, Any]:
    """Names with dots as nested dicts."""
    found: dict[Any, Any] = {}
    for name, x in flat.items():
        *path, leaf = [int(part) if numbers and part.isdecimal() else part for part in name.split(".")]
        at = found
        for part in path:
            at = at.setdefault(part, {})
        at[leaf] = x
    return found


def params(seed: int = 0) -> Any:
    """A Flax tree of JAX arrays."""
    import jax.numpy as jnp

    return tree({name: jnp.asarray(x) for name, x in kernels(seed).items()})


@producer(**NUMPY, writes="`np.savez(**state)`", form=".npz")
def savez(folder: Path) -> Made:
    np.savez(folder / "x.npz", **arrays(weights()))
    return file(folder / "x.npz")


@producer(**NUMPY, writes="`np.savez_compressed` with `epoch`, `lr`, a text and labels beside", form=".npz")
def savez_compressed(folder: Path) -> Made:
    np.savez_compressed(
        folder / "x.npz", epoch=np.int64(3), lr=0.1, note="second run", labels=np.array(["a", "b"]), **arrays(weights())
    )
    return file(folder / "x.npz")


@producer(**NUMPY, writes="big-endian arrays", form=".npz")
def big_endian(folder: Path) -> Made:
    np.savez(folder / "x.npz", **{k: x.astype(">f4") for k, x in arrays(weights()).items()})
    return file(folder / "x.npz")


@producer(**NUMPY, writes="big_vision's `params/…` with `/`, beside `opt/…` and `extra`", form=".npz")
def slashes(folder: Path) -> Made:
    flat = {f"params/{k.replace('.', '/')}": x for k, x in kernels().items()}
    opt = {f"opt/0/mu/{k.replace('.', '/')}": np.zeros_like(x) for k, x in kernels().items()}
    np.savez(folder / "x.npz", **flat, **opt, **{"extra/step": np.int32(3)})
    return file(folder / "x.npz")


@producer(**NUMPY, writes="`np.savez` of JAX bfloat16 arrays", form=".npz", needs=("numpy", "jax"))
def bfloat16_npz(folder: Path) -> Made:
    import jax.numpy as jnp

    jnp.savez(folder / "x.npz", **{k: jnp.asarray(x, jnp.bfloat16) for k, x in arrays(weights()).items()})
    return file(folder / "x.npz", {k: x.bfloat16() for k, x in weights().items()})


@producer(**NUMPY, writes="`np.save` of a dict (an object array)", form=".npy")
def npy_of_a_dict(folder: Path) -> Made:
    np.save(folder / "x.npy", arrays(weights()), allow_pickle=True)
    return file(folder / "x.npy", path=str(folder / "x.npy"))


@producer(**NUMPY, writes="`np.savez(weights=state)`: a dict as an object array", form=".npz")
def npz_of_a_dict(folder: Path) -> Made:
    np.savez(folder / "x.npz", allow_pickle=True, weights=arrays(weights()))
    return file(folder / "x.npz")


@producer("Python", writes="`pickle.dump` of a dict of NumPy arrays", form=".pkl", distribution="numpy")
def pickled_arrays(folder: Path) -> Made:
    with (folder / "x.pkl").open("wb") as out:
        pickle.dump({"params": arrays(weights()), "step": np.int32(3)}, out)
    return file(folder / "x.pkl")


@producer("Python", writes="`pickle.dump` of a Flax tree of JAX arrays", form=".pkl", distribution="jax", needs=("jax",))
def pickled_jax(folder: Path) -> Made:
    with (folder / "x.pkl").open("wb") as out:
        pickle.dump({"params": params()}, out)
    return file(folder / "x.pkl")


@producer("joblib", writes="`joblib.dump(state)`", form=".joblib")
def joblib_dump(folder: Path) -> Made:
    import joblib

    joblib.dump(arrays(weights()), folder / "x.joblib")
    return file(folder / "x.joblib")


@producer("joblib", writes="`joblib.dump(state, compress=3)`", form=".joblib")
def joblib_compressed(folder: Path) -> Made:
    import joblib

    joblib.dump(arrays(weights()), folder / "x.joblib.z", compress=3)
    return file(folder / "x.joblib.z")


def train_state(seed: int = 0) -> Any:
    import optax
    from flax.training.train_state import TrainState

    return TrainState.create(apply_fn=None, params=params(seed), tx=optax.adamw(1e-3))


@producer(**FLAX, writes="`serialization.to_bytes({'params': params})`", form=".msgpack")
def flax_params(folder: Path) -> Made:
    from flax import serialization

    (folder / "x.msgpack").write_bytes(serialization.to_bytes({"params": params()}))
    return file(folder / "x.msgpack")


@producer(**FLAX, writes="a `TrainState` with AdamW, `to_bytes`", form=".msgpack", needs=("flax", "optax"))
def flax_train_state(folder: Path) -> Made:
    from flax import serialization

    state = train_state()
    (folder / "x.msgpack").write_bytes(serialization.to_bytes(state))
    return file(folder / "x.msgpack")


@producer(**FLAX, writes="a `TrainState` with `ema_params` and batch statistics", form=".msgpack", needs=("flax", "optax"))
def flax_ema_params(folder: Path) -> Made:
    import flax
    import jax.numpy as jnp
    from flax import serialization
    from flax.training.train_state import TrainState

    class State(TrainState):
        ema_params: Any = None
        batch_stats: Any = flax.struct.field(default_factory=dict)

    import optax

    state = State.create(
        apply_fn=None, params=params(0), tx=optax.sgd(0.1), ema_params=params(1), batch_stats={"bn": {"mean": jnp.zeros(3)}}
    )
    (folder / "x.msgpack").write_bytes(serialization.to_bytes(state))
    return Made(folder / "x.msgpack", (Reading(weights(1), said="ema"), Reading(weights(0), {"use_ema": False})))


@producer(**FLAX, writes="`optax.ema` inside the optimiser's state", form=".msgpack", needs=("flax", "optax"))
def optax_ema(folder: Path) -> Made:
    import optax
    from flax import serialization

    tx = optax.chain(optax.adamw(1e-3), optax.ema(0.9))
    variables = params()
    (folder / "x.msgpack").write_bytes(serialization.to_bytes({"params": variables, "opt_state": tx.init(variables)}))
    return file(folder / "x.msgpack")


@producer(**FLAX, writes="`flax.training.checkpoints.save_checkpoint` (legacy)", form=".msgpack", needs=("flax", "optax"))
def flax_checkpoints(folder: Path) -> Made:
    import flax
    from flax.training import checkpoints

    flax.config.update("flax_use_orbax_checkpointing", False)
    try:
        path = checkpoints.save_checkpoint(str(folder), train_state(), step=3, overwrite=True)
    finally:
        flax.config.update("flax_use_orbax_checkpointing", True)
    return file(Path(path))


@producer(**FLAX, writes="boxes of `nn.Partitioned` (`with_partitioning`)", form=".msgpack")
def flax_boxes(folder: Path) -> Made:
    import jax
    from flax import linen, serialization

    boxed = jax.tree_util.tree_map(lambda x: linen.Partitioned(x, names=(None,) * x.ndim), params())
    (folder / "x.msgpack").write_bytes(serialization.to_bytes({"params": boxed}))
    return file(folder / "x.msgpack")


@producer(**FLAX, writes="`freeze(params)`, bfloat16", form=".msgpack")
def flax_bfloat16(folder: Path) -> Made:
    import jax
    import jax.numpy as jnp
    from flax import serialization
    from flax.core import freeze

    half = jax.tree_util.tree_map(lambda x: x.astype(jnp.bfloat16), params())
    (folder / "x.msgpack").write_bytes(serialization.to_bytes(freeze({"params": half})))
    return file(folder / "x.msgpack", {k: x.bfloat16() for k, x in weights().items()})


def nnx_module() -> Any:
    """A module of modules and lists, with kernels as `nnx.Linear` has them."""
    import jax.numpy as jnp
    from flax import nnx

    class Part(nnx.Module):
        pass

    def held(node: Mapping[str, Any]) -> Any:
        if all(name.isdecimal() for name in node):
            return nnx.List([held(node[str(i)]) if str(i) in node else Part() for i in range(1 + max(map(int, node)))])
        part = Part()
        for name, inner in node.items():
            setattr(part, name, held(inner) if isinstance(inner, Mapping) else nnx.Param(jnp.asarray(inner)))
        return part

    return held(tree(kernels()))


@producer(**FLAX, writes="`nnx.to_pure_dict(nnx.state(model))`, `msgpack_serialize` of it with text keys", form=".msgpack")
def nnx_pure_dict(folder: Path) -> Made:
    from flax import nnx, serialization

    pure = serialization.to_state_dict(nnx.to_pure_dict(nnx.state(nnx_module(), nnx.Param)))
    (folder / "x.msgpack").write_bytes(serialization.msgpack_serialize(_numpy(pure), in_place=True))
    return file(folder / "x.msgpack")


def _numpy(node: Any) -> Any:
    import jax

    return jax.tree_util.tree_map(np.asarray, node)


@producer(**FLAX, writes="an nnx pure dict with whole-number keys, `pickle.dump`", form=".pkl")
def nnx_pickle(folder: Path) -> Made:
    from flax import nnx

    pure = _numpy(nnx.to_pure_dict(nnx.state(nnx_module(), nnx.Param)))
    with (folder / "x.pkl").open("wb") as out:
        pickle.dump(pure, out)
    return file(folder / "x.pkl")


@producer(**FLAX, writes="`dict(nnx.to_flat_state(…))` with tuple keys, `pickle.dump`", form=".pkl")
def nnx_tuples(folder: Path) -> Made:
    from flax import nnx

    flat = {path: np.asarray(x[...]) for path, x in nnx.to_flat_state(nnx.state(nnx_module(), nnx.Param))}
    with (folder / "x.pkl").open("wb") as out:
        pickle.dump(flat, out)
    return file(folder / "x.pkl")


@producer(**ORBAX, writes="`StandardCheckpointer().save` of Flax params", form="Orbax folder")
def orbax_standard(folder: Path) -> Made:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as out:
        out.save((folder / "ckpt").absolute(), {"params": params()})
    return file(folder / "ckpt")


@producer(**ORBAX, writes="`StandardCheckpointer().save` of `nnx.state(model)`", form="Orbax folder")
def orbax_nnx(folder: Path) -> Made:
    import orbax.checkpoint as ocp
    from flax import nnx

    with ocp.StandardCheckpointer() as out:
        out.save((folder / "ckpt").absolute(), nnx.state(nnx_module()))
    return file(folder / "ckpt")


@producer(**ORBAX, writes="`PyTreeCheckpointer().save` of a `TrainState`", form="Orbax folder")
def orbax_pytree(folder: Path) -> Made:
    import orbax.checkpoint as ocp

    ocp.PyTreeCheckpointer().save((folder / "ckpt").absolute(), train_state())
    return file(folder / "ckpt")


@producer(**ORBAX, writes="`CheckpointManager.save(3, …)`: its folder", form="Orbax folder")
def orbax_manager(folder: Path) -> Made:
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager((folder / "run").absolute()) as manager:
        manager.save(3, args=ocp.args.StandardSave({"params": params()}))
        manager.wait_until_finished()
    return file(folder / "run")


@producer("safetensors", writes="`safetensors.torch.save_model`, `{'format': 'pt'}`", form=".safetensors")
def safetensors_torch(folder: Path) -> Made:
    import safetensors.torch

    from tests.programs.producers.made import network

    safetensors.torch.save_model(network(), str(folder / "x.safetensors"), metadata={"format": "pt"})
    return file(folder / "x.safetensors")


@producer("safetensors", writes="`save_file` with foreign `config`, `metadata` and `variant` notes", form=".safetensors")
def safetensors_notes(folder: Path) -> Made:
    import safetensors.numpy

    notes = {"config": '{"num_classes": 7, "head": "mlp"}', "metadata": "trained by me", "variant": "B", "layout": "NCHW"}
    safetensors.numpy.save_file(arrays(weights()), folder / "x.safetensors", metadata=notes)
    return file(folder / "x.safetensors")


@producer(
    "safetensors",
    writes="`safetensors.flax.save_file(flatten_dict(params, sep='.'))`",
    form=".safetensors",
    needs=("safetensors", "flax"),
)
def safetensors_flax(folder: Path) -> Made:
    import safetensors.flax
    from flax.traverse_util import flatten_dict

    safetensors.flax.save_file(flatten_dict({"params": params()}, sep="."), str(folder / "x.safetensors"))
    return file(folder / "x.safetensors")


@producer("Equinox", writes="`tree_serialise_leaves`: leaves without names", form=".eqx", distribution="equinox")
def equinox(folder: Path) -> Made:
    import equinox as eqx

    eqx.tree_serialise_leaves(folder / "x.eqx", params())
    return file(folder / "x.eqx", tell=("without their names",))


@producer(
    "Haiku",
    writes="`pickle.dump` of a Haiku parameter dict (`w`, `b`, `~`)",
    form=".pkl",
    distribution="dm-haiku",
    needs=("haiku", "jax"),
)
def haiku(folder: Path) -> Made:
    import haiku as hk
    import jax

    def forward(x: Any) -> Any:
        return hk.nets.MLP([8, 10], name="head")(x)

    found = hk.transform(forward).init(jax.random.PRNGKey(0), np.zeros((1, 4), np.float32))
    with (folder / "x.pkl").open("wb") as out:
        pickle.dump(found, out)
    return file(folder / "x.pkl", tell=("no known layout", "linear_0.w"))
