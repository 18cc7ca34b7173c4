"""Weights on the Hugging Face Hub, by names like `hf://org/name@revision/file`: fetched into its cache by its own library.

The network is touched for such a name alone, and not where `HF_HUB_OFFLINE` is set: then the cache is read.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scalablevit_ref.checkpoints.hub import CONFIG_JSON, HUB_FILE
from scalablevit_ref.errors import CheckpointError, did_you_mean
from scalablevit_ref.formats.folders import checkpoints_among, listed
from scalablevit_ref.formats.sharded import shard_of

_ADDRESS = re.compile(
    r"hf:/+(?:models/)?(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>refs/[^/]+/[^/]+|[^/]+))?(?:/+(?P<file>.+))?"
)
"""A name on the Hub. `pathlib.Path` leaves one slash of the two."""


@dataclass(frozen=True)
class Address:
    """Where weights lie on the Hub.

    Attributes
    ----------
    repository
        "org/name".
    revision
        A branch, a tag or a commit; None is the main branch.
    file
        In the repository; None is its one checkpoint.
    """

    repository: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repository}{revision}" + (f"/{self.file}" if self.file else "")


def is_on_hub(path: str | os.PathLike[str]) -> bool:
    """Whether a name begins with `hf://`."""
    return os.fspath(path).startswith("hf:/")


def address_of(path: str | os.PathLike[str]) -> Address:
    """What a name that begins with `hf://` says.

    Examples
    --------
    >>> address_of("hf://someone/scalablevit@v1/small.pth")
    Address(repository='someone/scalablevit', revision='v1', file='small.pth')
    """
    found = _ADDRESS.fullmatch(os.fspath(path))
    if found is None:
        raise CheckpointError(
            "no address of the Hub", file=as_given(path), expected="hf://org/name, hf://org/name@revision or hf://org/name/file"
        )
    return Address(**found.groupdict())


def as_given(path: str | os.PathLike[str]) -> str:
    """A path as it was given: of an address `pathlib.Path` has taken a slash."""
    return f"hf://{os.fspath(path).removeprefix('hf:').lstrip('/')}" if is_on_hub(path) else os.fspath(path)


def local(path: str | os.PathLike[str]) -> Path:
    """The file in the Hub's cache that an address is of, fetched if it is not there; any other path as it is.

    Raises
    ------
    CheckpointError
        In one line, where there is no such file or the Hub cannot be asked.
    ModuleNotFoundError
        Names the extra.
    """
    return fetched(address_of(path)) if is_on_hub(path) else Path(path)


def fetched(address: Address, **settings: Any) -> Path:
    """The weights of an address in the Hub's cache, beside them `config.json`, if the repository has one.

    Parameters
    ----------
    address
        What is asked for.
    settings
        Of `huggingface_hub.snapshot_download`: `token`, `cache_dir`, `force_download`, `local_files_only`.
    """
    with one_line(address):
        from huggingface_hub import HfApi, is_offline_mode, snapshot_download

        where = {"repo_id": address.repository, "revision": address.revision}
        if is_offline_mode() or settings.get("local_files_only"):
            folder = Path(snapshot_download(**where, allow_patterns=[CONFIG_JSON], **settings | {"local_files_only": True}))
            names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            return folder / _chosen(address, names)
        names = HfApi(token=settings.get("token")).list_repo_files(address.repository, revision=address.revision)
        wanted = _chosen(address, names)
        shards = [name for name in names if (shard := shard_of(name)) and shard[0] == wanted]
        beside = [str(PurePosixPath(wanted).with_name(CONFIG_JSON)), *shards]
        patterns = [glob.escape(name) for name in (wanted, *beside)]
        return Path(snapshot_download(**where, allow_patterns=patterns, **settings)) / wanted


def _chosen(address: Address, names: list[str]) -> str:
    """The file that is meant, of a repository's."""
    if address.file is not None:
        if address.file not in names:
            raise CheckpointError(f"no such file in the repository{did_you_mean(address.file, names)}")
        return address.file
    found = checkpoints_among([name for name in names if "/" not in name])
    for usual in (HUB_FILE, f"{HUB_FILE}.index.json"):
        if usual in found:
            return usual
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(f"a repository of several checkpoints: name one, {address}/{found[0]} for one", found=listed(found))
    raise CheckpointError("a repository that holds no checkpoint", found=listed(sorted(names)) or None)


@contextmanager
def one_line(address: Address) -> Iterator[None]:
    """What the library raises, as a CheckpointError that names the address and says what helps."""
    try:
        yield
    except CheckpointError as error:
        raise error.in_file(str(address)) from error.__cause__
    except ModuleNotFoundError as error:
        message = f"{address} is read by {error.name}: pip install 'scalablevit-ref[hub]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    except Exception as error:
        raise CheckpointError(_said(error, address), file=str(address)) from error


_UNREACHED = "the Hub cannot be reached"

_LOG_IN = "`hf auth login`, or a token in HF_TOKEN"

_WORDS = {
    "GatedRepoError": f"a gated repository: accept its conditions on its page, and log in ({_LOG_IN})",
    "RepositoryNotFoundError": f"there is no such repository, or it is private: then log in ({_LOG_IN})",
    "RevisionNotFoundError": "there is no such revision",
    "LocalEntryNotFoundError": f"not in the cache, and {_UNREACHED}",
    "IncompleteSnapshotError": f"not whole in the cache, and {_UNREACHED}",
    "ConnectError": _UNREACHED,
    "HFValidationError": "no name of a repository",
}
"""By the classes of what `huggingface_hub` raises, which its versions have in several places."""


def _said(error: Exception, address: Address) -> str:
    from huggingface_hub import is_offline_mode

    if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
        return f"the Hub does not permit it: log in ({_LOG_IN})"
    for kind in type(error).__mro__:
        if kind.__name__ in _WORDS:
            return _WORDS[kind.__name__].replace(_UNREACHED, "HF_HUB_OFFLINE is set" if is_offline_mode() else _UNREACHED)
    return f"the Hub: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
