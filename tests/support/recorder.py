"""What a command does to the machine: programs that it starts, connections that it tries, files that it writes.

It runs in a process of its own, in an empty home, an empty folder for temporary files and, where that is permitted, without a
network. Two recorders watch it: Python's audit hook, and strace, where there is one, which sees what libraries do by themselves.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.waiting import HANGS

HOOKED = """
import json, os, runpy, sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CONNECTING = {
    "socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "webbrowser.open"
}

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

def watch(event, args):
    found = None
    if event == "open":
        if isinstance(args[0], (str, bytes)) and isinstance(args[2], int) and args[2] & WRITING:
            found = ["written", os.path.abspath(os.fsdecode(args[0]))]
    elif event in ("os.rename", "os.link", "os.symlink"):
        found = ["written", os.path.abspath(os.fsdecode(args[1]))]
    elif event == "os.mkdir":
        found = ["written", os.path.abspath(os.fsdecode(args[0]))]
    elif event == "subprocess.Popen":
        found = ["program", os.fsdecode(args[0] or args[1][0])]
    elif event in ("os.exec", "os.posix_spawn"):
        found = ["program", os.fsdecode(args[0])]
    elif event == "os.system":
        found = ["program", os.fsdecode(args[0])]
    elif event in CONNECTING:
        found = ["connection", f"{event} {args}"]
    if found:
        os.write(log, (json.dumps(found) + chr(10)).encode())

sys.argv = sys.argv[2:]
sys.addaudithook(watch)
if sys.argv[0] == "-c":
    exec(compile(sys.argv[1], "<recorded>", "exec"), {"__name__": "__main__"})
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Arguments: where the events go, and a module with its arguments, or `-c` and code."""

CALLS = (
    "socket,connect,sendto,execve,open,openat,creat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mkdir,mkdirat,"
    "mknod,mknodat,truncate,chmod,fchmodat"
)
WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE")
INTERNET = re.compile(r"AF_INET6?|AF_PACKET")
CALL = re.compile(r"^(\d+) +(\w+)\((.*?)\)? += +(-?\d+|\?)")
PATHS = re.compile(r'"((?:[^"\\]|\\.)*)"')
DEVICES = re.compile(r"/dev/(null|tty|pts/\d+|nvidia\S*)|/proc/self/.*|/proc/\d+/.*|/sys/.*")
"""What is opened for writing and keeps nothing: the names of threads, a driver."""


@dataclass(frozen=True)
class Footprint:
    """What was seen. Paths are said as `said` does.

    code, error
        The command's exit code, and what it printed on standard error.
    programs, connections
        Programs that it or its libraries started, by their files' names; and connections that they tried.
    left
        Files and folders that are there afterwards and were not before.
    passing
        What was written, and is not there afterwards.
    """

    code: int
    error: str
    programs: frozenset[str]
    connections: tuple[str, ...]
    left: frozenset[str]
    passing: frozenset[str]


@cache
def without_network() -> tuple[str, ...]:
    """The words before a command that take its network away; none where that is not permitted."""
    for words in (("unshare", "-n"), ("unshare", "-r", "-n")):
        if shutil.which("unshare") and not subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
            return words
    return ()


@cache
def with_strace() -> bool:
    return (
        bool(shutil.which("strace")) and not subprocess.run(["strace", "-qq", "true"], capture_output=True, check=False).returncode
    )


def recorded(arguments: Sequence[str], place: Path, *, strace: bool = True) -> Footprint:
    """Run a module, or `-c` and code, in `place / "work"`.

    Beside that folder are the command's home and its folder for temporary files.
    """
    logs = place / "logs"
    for folder in ("work", "home", "tmp", "logs"):
        (place / folder).mkdir(exist_ok=True)
    before = set(_there(place))
    traced = strace and with_strace()
    watched = ("strace", "-f", "-y", "--seccomp-bpf", "-qq", "-s", "400", "-o", str(logs / "calls"), "-e", f"trace={CALLS}")
    command = [*without_network(), *(watched if traced else ()), sys.executable, "-c", HOOKED, str(logs / "events"), *arguments]
    done = subprocess.run(
        command,
        cwd=place / "work",
        env=_environment(place),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS,
    )
    seen = [tuple(json.loads(line)) for line in (logs / "events").read_text(encoding="utf-8").splitlines()]
    calls = (logs / "calls").read_text(encoding="utf-8", errors="replace") if traced else ""
    seen += [event for event in _events(calls, place / "work") if event[1] != str(logs / "events")]
    written = {Path(what) for kind, what in seen if kind == "written" and not DEVICES.fullmatch(what)}
    left = set(_there(place)) - before | {path for path in written if path.exists() and not path.is_relative_to(place)}
    return Footprint(
        done.returncode,
        done.stderr,
        frozenset(_program(what) for kind, what in seen if kind == "program"),
        tuple(dict.fromkeys(what for kind, what in seen if kind == "connection")),
        frozenset(said(path, place) for path in left),
        frozenset(said(path, place) for path in written if not path.exists()),
    )


def _environment(place: Path) -> dict[str, str]:
    """As after a new user's first login."""
    kept = ("PATH", "LANG", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")
    given = {name: os.environ[name] for name in kept if name in os.environ}
    return given | {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), "COLUMNS": "80"}


def _there(place: Path) -> Iterator[Path]:
    """Files, and folders that hold none."""
    for folder in ("work", "home", "tmp"):
        for path in (place / folder).rglob("*"):
            if not path.is_dir() or path.is_symlink() or not any(path.iterdir()):
                yield path


def _events(calls: str, work: Path) -> Iterator[tuple[str, str]]:
    """Of strace's lines. The first program is Python itself, which is the command."""
    begun: dict[str, str] = {}
    first = True
    for line in calls.splitlines():
        process, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[process] = rest.removesuffix("<unfinished ...>").strip()
            continue
        if resumed := re.match(r" *<\.\.\. \w+ resumed>(.*)", rest):
            line = f"{process} {begun.pop(process, '')}{resumed[1]}"
        call = CALL.match(line)
        if not call:
            continue
        _, name, arguments, result = call.groups()
        if name in ("socket", "connect", "sendto"):
            if INTERNET.search(arguments):
                yield "connection", f"{name}({arguments})"
        elif result.startswith("-"):
            continue
        elif name == "execve":
            if not first:
                yield "program", PATHS.findall(arguments)[0]
            first = False
        elif name not in ("open", "openat") or WRITING.search(arguments):
            named = PATHS.findall(arguments)
            if named:
                yield "written", os.path.normpath(work / _unescaped(named[-1]))


def _unescaped(text: str) -> str:
    """As strace writes bytes beyond ASCII."""
    return (
        text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1", "replace").decode("utf-8", "replace")
    )


def _program(path: str) -> str:
    """By its file's name; Python, whatever its version is called, is `python`."""
    name = Path(path).name
    return "python" if name.startswith("python") else name


def said(path: Path, place: Path) -> str:
    """A path for a page: `~` is the home, `$TMPDIR` the folder for temporary files; versions and drawn names are `…`."""
    for folder, word in (("work", ""), ("home", "~/"), ("tmp", "$TMPDIR/")):
        if path.is_relative_to(place / folder):
            inner = path.relative_to(place / folder).as_posix()
            return re.sub(r"-v[\d.]+\.json", "-….json", word + (_drawn(inner) if word == "$TMPDIR/" else inner))
    return "Python's `__pycache__`" if "__pycache__" in path.parts else str(path)


def _drawn(inner: str) -> str:
    """Without what `tempfile` draws, nor the user's name."""
    inner = re.sub(r"torchinductor_\w+", "torchinductor_USER", inner)
    return re.sub(r"^(tmp)?[a-z0-9_]{8}(?=/|$)", "…", inner)
