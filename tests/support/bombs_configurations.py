"""Sound weights whose notes are made to take time or memory, or are of another network: refused, though each array is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from tests.support.bombs_pickle import text
from tests.support.hostile import op, plain, storage, tensor
from tests.support.noted_files import ELEMENTS, NETWORK, NOTES, flax, npz, onnx, pth, safetensors

Bombs = dict[str, tuple[Callable[[], bytes], str]]

NONE = "config: not a configuration"


def settings(**changed: Any) -> dict[str, Any]:
    """Those of the weights, some of them changed."""
    return asdict(NETWORK) | changed


# As text, in every format


def noted(config: str, others: Mapping[str, str] | None = None) -> str:
    """The notes as one text. The configuration is a text in it, as this package writes it; others: more fields, as JSON."""
    fields = {"version": "1", "layout": '"official"', "config": json.dumps(config), "metadata": "{}"} | dict(others or {})
    return "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"


IN_TEXT: dict[str, Callable[[str], bytes]] = {
    "pth": lambda config: pth(text(NOTES) + text(noted(config))),
    "safetensors": lambda config: safetensors({NOTES: noted(config)}),
    "npz": lambda config: npz(noted(config)),
    "msgpack": lambda config: flax(noted(config)),
    "onnx": lambda config: onnx({f"{NOTES}.config": config}),
}
"""How each format holds a configuration that is a text."""

TEXTS: dict[str, tuple[Callable[[], str], str]] = {
    "lists in depth": (lambda: "[" * 100_000 + "]" * 100_000, NONE),
    "objects in depth": (lambda: '{"a":' * 50_000 + "1" + "}" * 50_000, NONE),
    "a setting in depth": (
        lambda: json.dumps(settings(depths=0)).replace('"depths": 0', f'"depths": {"[" * 9000}{"]" * 9000}'),
        NONE,
    ),
    "a number of many digits": (
        lambda: json.dumps(settings(norm_eps=0)).replace('"norm_eps": 0', f'"norm_eps": {"9" * 60_000}'),
        NONE,
    ),
    "a number of 4,000 digits": (lambda: json.dumps(settings(in_chans=10**4000)), f"{NONE}|a parameter larger than any"),
    "many settings": (lambda: json.dumps(settings(window_sizes=[1] * 300_000)), NONE),
    "settings that are none": (lambda: json.dumps(settings() | {f"x{i}": i for i in range(20_000)}), NONE),
    "no JSON": (lambda: "{'embed_dims': __import__('os')}", NONE),
    "a list of settings": (lambda: json.dumps([settings()]), NONE),
    "texts for numbers": (lambda: json.dumps(settings(embed_dims=["2", "2"])), NONE),
    "an epsilon that is no number": (lambda: json.dumps(settings(norm_eps=float("nan"))), NONE),
    "heads of zero": (lambda: json.dumps(settings(num_heads=[0, 0])), NONE),
    "ratios beyond floats": (
        lambda: json.dumps(settings(mlp_ratios=[1e300, 1e300])),
        f"a parameter larger than any|do not fit|{NONE}",
    ),
    "widths of 2^62": (lambda: json.dumps(settings(embed_dims=[1 << 62] * 2)), f"a parameter larger than any|do not fit|{NONE}"),
    "as many blocks as arrays": (lambda: json.dumps(settings(depths=[30, 34])), "do not fit the stored configuration"),
    "a thousand million blocks": (lambda: json.dumps(settings(depths=[10**9] * 2)), f"more blocks than there are arrays|{NONE}"),
    "a control sequence": (lambda: json.dumps(settings(head="\x1b[2J\x07\r\n" * 50)), NONE),
}

# As an object of a pickle


def shared(start: bytes, join: Callable[[int], bytes], depth: int = 40) -> bytes:
    """A value that holds the last one twice, and so on: 2^depth leaves in some hundred bytes."""
    return start + b"q\x00" + b"".join(b"0" + join(i) + b"q%c" % (i + 1) for i in range(depth))


LISTS = shared(b"]", lambda i: b"](h%ch%ce" % (i, i))
TUPLES = shared(b")", lambda i: b"h%ch%c\x86" % (i, i))
DICTS = shared(b"}", lambda i: b"}(" + text("a") + b"h%c" % i + text("b") + b"h%cu" % i)
DEEP = b"]" * 100_000 + b"a" * 99_999
ITSELF = b"]q\xf0(h\xf0h\xf0e"
CALL = op("os system") + plain(("touch hacked",)) + b"R"


def changed(name: str, value: bytes) -> bytes:
    """The opcodes of the settings of the weights, one of them another value."""
    return b"}(" + b"".join(text(key) + plain(x) for key, x in settings().items() if key != name) + text(name) + value + b"u"


def with_config(value: bytes) -> bytes:
    return pth(text(NOTES) + b"}(" + text("config") + value + text("version") + b"K\x01u")


def with_notes(value: bytes) -> bytes:
    return pth(text(NOTES) + value)


def with_field(name: str, value: bytes) -> bytes:
    return with_notes(b"}(" + text("config") + text(json.dumps(settings())) + text(name) + value + b"u")


IN_PICKLES: Bombs = {
    **{
        f"configuration of {what}": (partial(with_config, value), NONE)
        for what, value in {
            "lists of lists": LISTS, "tuples of tuples": TUPLES, "dicts of dicts": DICTS, "lists in depth": DEEP,
            "a list in itself": ITSELF, "a call": CALL, "a number": b"K\x07", "bytes": b"U\x03abc",
            "a tensor": tensor(0, (2,), (1,), storage(elements=ELEMENTS)),
        }.items()
    },
    **{
        f"setting of {what}": (partial(with_config, changed("depths", value)), NONE)
        for what, value in {
            "lists of lists": LISTS, "tuples of tuples": TUPLES, "lists in depth": DEEP, "a list in itself": ITSELF, "a call": CALL,
            "a number of 2,000 bits": plain(1 << 2000), "many numbers": b"](" + b"K\x01" * 400_000 + b"e", "an object": op("a.b C"),
        }.items()
    },
    "settings of a hostile name": (lambda: with_config(b"}(" + text("\x1b[2J" * 100_000) + b"Nu"), NONE),
    "settings of no text": (lambda: with_config(changed("depths", b"K\x01") + b"(K\x07NK\x08Nu"), NONE),
    "many settings of no name": (lambda: with_config(b"}(" + b"".join(text(str(i)) + b"N" for i in range(100_000)) + b"u"), NONE),
    **{
        f"notes of {what}": (partial(with_notes, value), "damaged scalablevit_ref")
        for what, value in {"lists of lists": LISTS, "tuples of tuples": TUPLES, "lists in depth": DEEP, "a call": CALL}.items()
    },
    **{
        f"metadata of {what}": (partial(with_field, "metadata", value), "damaged metadata")
        for what, value in {"lists of lists": LISTS, "dicts of dicts": DICTS, "lists in depth": DEEP, "a call": CALL}.items()
    },
    "version of lists": (lambda: with_field("version", LISTS), "damaged version"),
    "version of many digits": (lambda: with_field("version", plain(1 << 2000)), "notes of a later version"),
}  # fmt: skip

CONFIGURATION_BOMBS: Bombs = {
    **{
        f"{format_}: {what}": ((lambda write=write, make=make: write(make())), message)  # type: ignore[misc]
        for format_, write in IN_TEXT.items()
        for what, (make, message) in TEXTS.items()
    },
    **IN_PICKLES,
    "msgpack configuration in depth": (lambda: flax({"config": [[[[[[[[1]]]]]]]]}), NONE),
    "msgpack configuration of bytes": (lambda: flax({"config": b"\xff" * 9, "version": 1}), NONE),
    "safetensors notes of 4 MB": (lambda: safetensors({NOTES: noted(" " * 2_300_000 + json.dumps(settings()))}), "longer"),
}
"""Files with sound weights whose notes are refused: what makes each, and what is said of it."""
