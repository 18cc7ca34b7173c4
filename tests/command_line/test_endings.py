"""How commands end, in processes of their own: signals, faults of ours, streams that are full, closed or of another encoding."""

from __future__ import annotations

import ast
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

import scalablevit_ref as sv
from scalablevit_ref import cli, digits
from scalablevit_ref.cli.streams import in_ascii
from scalablevit_ref.testing import random_images, random_params
from scalablevit_ref.testing.traces import reference_trace, save_trace
from tests.support.profiles import share

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and closed streams as POSIX has them")

ROOT = Path(cli.__file__).resolve().parents[2]
COMMANDS = sorted(get_command(cli.app).commands)  # type: ignore[attr-defined]
MODULE = [sys.executable, "-m", "scalablevit_ref"]

HOSTILE = b"[red]x[/bold]:smile:\x1b[31m\x07\r\n\xe2\x80\xae\xff\xc3\xa9"
"""A file in a folder: markup, an emoji's name, an escape sequence, line breaks, a change of direction, a byte that is no UTF-8."""


class Ended(NamedTuple):
    code: int
    out: bytes
    err: bytes

    @property
    def lines(self) -> list[str]:
        return self.err.decode().splitlines()


def ended(
    command: list[str | bytes], folder: Path | None = None, *, environment: dict[str, str] | None = None, **streams: Any
) -> Ended:
    """Run it to its end."""
    settings = {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "PYTHONUTF8": "1"} | (environment or {})
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "PYTHONIOENCODING")} | settings
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | streams
    done = subprocess.run(command, env=env, cwd=folder, timeout=300, check=False, **streams)
    return Ended(done.returncode, done.stdout or b"", done.stderr or b"")


@pytest.fixture(autouse=True)
def hears_signals() -> Iterator[None]:
    """A suite that a shell runs in its background ignores Ctrl-C, and what it starts would too."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def in_shell(command: list[str | bytes], *, closed: Sequence[int] = (), ignored: str = "") -> list[str | bytes]:
    """The same, started with closed streams or with a signal switched off."""
    trap = f"trap '' {ignored}; " if ignored else ""
    return ["sh", "-c", f'{trap}exec "$@" {" ".join(f"{number}>&-" for number in closed)}', "sh", *command]


def program(setting: str, *arguments: str) -> list[str | bytes]:
    """The installed command line, in whose process something happens before."""
    return [
        sys.executable,
        "-c",
        f"import sys; sys.argv = ['scalablevit-ref', *{arguments!r}]\n{setting}\nfrom scalablevit_ref.cli import main\nmain()",
    ]


def instead(of: str, body: str) -> str:
    """A setting: the function that a command calls, `summary.cost` of `cli/summary.py`, is another one."""
    module, name = of.split(".")
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return (
        "import os, signal, importlib\ndef raised(name): signal.raise_signal(getattr(signal, name))\n"
        f"def other(*arguments, **options):\n{lines}\n"
        f"setattr(importlib.import_module('scalablevit_ref.cli.{module}'), {name!r}, other)"
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command finds what it reads, under a hostile name too."""
    folder = tmp_path_factory.mktemp("endings")
    config = sv.variant("digits", depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), num_classes=3)
    params = random_params(sv.parameter_shapes(config), dtype="float32")
    hostile = os.fsdecode(HOSTILE)
    (folder / hostile).parent.mkdir()
    for name in (folder / "a.npz", folder / f"{hostile}.npz"):
        sv.save_checkpoint(name, params, config)
    rgb = sv.ScalableViTConfig((8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1), num_classes=5, head="linear")
    sv.save_checkpoint(folder / "rgb.npz", random_params(sv.parameter_shapes(rgb), dtype="float32"), rgb)
    images = random_images((1, 1, 112, 112))
    save_trace(folder / "t.npz", reference_trace(images, random_params(sv.parameter_shapes(config)), config), config)
    (folder / f"{hostile}t.npz").write_bytes((folder / "t.npz").read_bytes())
    for name in ("v.npz", f"{hostile}v.npz"):
        np.savez(folder / name, images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    for name in ("i.png", f"{hostile}i.png"):
        Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(folder / name, "PNG")
    return folder


def calls(name: str = "a.npz") -> dict[str, list[str]]:
    """Every command on a file of this name, or one beside it."""
    stem = name.removesuffix(".npz")
    trace, image, labelled = (f"{'' if name == 'a.npz' else stem}{beside}" for beside in ("t.npz", "i.png", "v.npz"))
    return {
        "attend": ["attend", image, "--weights", "rgb.npz", "--layer", "stages.0.0", "-o", f"{stem}.svg"],
        "bench": ["bench", "--variants", "digits", "--rounds", "3", "--threads", "1", "--backends", "numpy"],
        "certify": ["certify", "--weights", name, "--backend", "numpy", "--dtype", "float32"],
        "compare": ["compare", trace, "t.npz"],
        "convert": ["convert", name, f"{stem}.safetensors", "--force"],
        "diff": ["diff", name, "a.npz"],
        "draw": ["draw", "digits", "-o", f"{stem}d.svg"],
        "evaluate": ["evaluate", labelled, "--weights", name, "--backend", "numpy", "--decoders", "0"],
        "inspect": ["inspect", name],
        "inspect --json": ["inspect", name, "--json"],
        "summary": ["summary", name],
        "summary --json": ["summary", name, "--json"],
        "trace": ["trace", f"{stem}u.npz", "--weights", name, "--force"],
        "verify": ["verify", "--weights", "rgb.npz", "--image", image, "--backend", "numpy"],
        "verify --weights": ["verify", "--weights", name, "--backend", "numpy"],
    }


CALLS = calls()


def test_every_command_is_tried() -> None:
    assert {name.split()[0] for name in CALLS} == set(COMMANDS)


@pytest.mark.parametrize("name", CALLS)
def test_a_full_standard_output_is_one_line(name: str, files: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        found = ended([*MODULE, *CALLS[name]], files, stdout=full)
    said = [line for line in found.lines if name != "bench" or line.startswith("scalablevit-ref")]  # whose log is on stderr
    assert (found.code, said) == (74, ["scalablevit-ref: standard output cannot be written: No space left on device"])


@pytest.mark.parametrize("arguments", [["--help"], ["summary", "--help"], []])
def test_help_into_a_full_standard_output(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        found = ended([*MODULE, *arguments], stdout=full)
    assert (found.code, len(found.lines)) == (74, 1)


@pytest.mark.parametrize("name", ["summary", "summary --json", "inspect", "diff", "convert"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_silent(name: str, unbuffered: str, files: Path) -> None:
    """Exit code 141 is that of `cat`, which SIGPIPE ends: nobody knows whether what was not read was done."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        found = ended([*MODULE, *CALLS[name]], files, stdout=writes, environment={"PYTHONUNBUFFERED": unbuffered})
    finally:
        os.close(writes)
    assert found == (141, b"", b"")


def test_closed_streams_are_silent(files: Path) -> None:
    """What is told is lost; the exit code is the command's."""
    bad = ["summary", "no_such.npz"]
    for arguments, numbers, expected in ((CALLS["summary"], (1,), 0), (bad, (2,), 2), (bad, (0, 1, 2), 2), (["x"], (2,), 2)):
        found = ended(in_shell([*MODULE, *arguments], closed=numbers), files)
        assert found == (expected, b"", b""), (arguments, numbers)


def test_no_file_takes_the_number_of_a_closed_stream(files: Path) -> None:
    """What a library writes there itself would be in the file."""
    setting = "import os; import scalablevit_ref as sv; os.write(1, b'lost'); os.write(2, b'lost')"
    arguments = ["convert", "a.npz", "closed.npz", "--force"]
    assert ended(in_shell(program(setting, *arguments), closed=(1, 2)), files).code == 0
    assert sv.load_checkpoint(files / "closed.npz").params


def test_a_full_standard_error_changes_no_exit_code(files: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        assert ended([*MODULE, "summary", "no_such.npz"], files, stderr=full) == (2, b"", b"")
        assert ended([*MODULE, *CALLS["diff"]], files, stderr=full).code == 0


ENCODINGS = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    "cp1252": {"PYTHONIOENCODING": "cp1252:strict", "PYTHONUTF8": "0"},
    "utf-8": {"PYTHONIOENCODING": "utf-8:strict"},
}


@pytest.mark.parametrize(
    ("name", "encoding"), share([(name, encoding) for name in CALLS if name != "bench" for encoding in ENCODINGS], of=5)
)
def test_names_are_escaped_in_every_encoding(name: str, encoding: str, files: Path) -> None:
    """Nothing of a name acts on the terminal, nothing crashes, and JSON stays ASCII."""
    arguments = [part.encode("utf-8", "surrogateescape") for part in calls(f"{os.fsdecode(HOSTILE)}.npz")[name]]
    done = ended([*(part.encode() for part in MODULE), *arguments], files, environment=ENCODINGS[encoding])
    missing = ended([*(part.encode() for part in MODULE), *(part.replace(b"[red]", b"[no]") for part in arguments)], files)
    assert done.code == 0, done.err
    for found, coded in ((done, encoding), (missing, "utf-8")):
        for stream in (found.out, found.err):
            text = stream.decode(coded)
            assert all(line.isprintable() for line in text.split("\n")), text
            assert "Traceback" not in text
    assert name == "draw" or (missing.code == 2 and len(missing.lines) == 1) or name in ("compare", "convert", "trace")
    if "json" in name:
        assert os.fsencode(json.loads(done.out)["file"]).startswith(HOSTILE)
        assert done.out.isascii()
    elif name not in ("diff", "compare"):  # which tell no names
        assert b"[red]x[/bold]:smile:" in done.out.replace(b"\n", b"")


def test_our_own_signs_have_counterparts_in_ascii() -> None:
    """Every sign in a string of the package, so that no new one is escaped where the terminal lacks it."""
    signs: set[str] = set()
    for path in (*(ROOT / "scalablevit_ref").rglob("*.py"), *(ROOT / "backends").glob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        unprinted = [] if path.parent.name == "cli" else [id(node.value) for node in nodes if isinstance(node, ast.Expr)]
        strings = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in unprinted]
        signs |= {c for text in strings if isinstance(text, str) for c in text if not c.isascii()} - set("é⁄")
    assert {"…", "×", "½", "│"} <= signs
    escaped = {c: in_ascii(c) for c in signs if "\\" in in_ascii(c)}
    assert escaped == {}


def test_boxes_and_arrows_in_ascii(files: Path) -> None:
    found = ended([*MODULE, *CALLS["summary"]], files, environment=ENCODINGS["ascii"])
    assert found.out.isascii()
    assert b"\\" not in found.out
    assert b"-----" in found.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_in_the_c_locale(command: str) -> None:
    found = ended([*MODULE, command, "--help"], environment=ENCODINGS["ascii"])
    assert (found.code, found.err) == (0, b"")
    assert max(map(len, found.out.decode("ascii").splitlines())) <= 80
    assert b"\\u" not in found.out


@pytest.mark.parametrize("arguments", [["verfy"], ["verify", "--sed", "1"], ["verify", "--seed", "x"], ["diff", "a"], ["--\x1b"]])
def test_typos_are_one_line(arguments: list[str]) -> None:
    found = ended([*MODULE, *arguments])
    assert (found.code, found.out, len(found.lines)) == (2, b"", 1)
    assert found.lines[0].startswith("scalablevit-ref: ")
    assert found.lines[0].endswith("--help")
    assert found.lines[0].isprintable()


INTERRUPTED = Ended(130, b"", b"scalablevit-ref: interrupted\n")

ON_IMPORT = """
import signal
class Raises:
    def find_spec(self, name, path=None, target=None):
        if name == {!r}:
            signal.raise_signal(signal.{})
sys.meta_path.insert(0, Raises())
"""


@pytest.mark.parametrize("module", ["einops", "scalablevit_ref.attention", "typer", "scalablevit_ref.cli.summary"])
def test_an_interrupt_while_the_libraries_load(module: str) -> None:
    assert ended(program(ON_IMPORT.format(module, "SIGINT"), "summary", "digits")) == INTERRUPTED
    assert ended(program(ON_IMPORT.format(module, "SIGTERM"), "summary", "digits")) == (143, b"", b"")


@pytest.mark.parametrize("module", ["torch", "jax"])
def test_an_interrupt_while_a_backend_starts(module: str) -> None:
    """Which is no fault of the backend."""
    setting = f"import scalablevit_ref.cli\n{ON_IMPORT.format(module, 'SIGINT')}"
    assert ended(program(setting, "verify", "--variant", "digits", "--backend", module)) == INTERRUPTED


IN_A_THREAD = """
import time
from concurrent.futures import ThreadPoolExecutor
def work():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1000)
ThreadPoolExecutor().submit(work).result()
"""
IN_A_PROCESS = """
import subprocess
child = "import os, signal, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(1000)"
subprocess.run([sys.executable, "-c", child])
"""
IN_A_DESTRUCTOR = """
class Dropped:
    def __del__(self): raised("SIGINT")
Dropped()
import time
time.sleep(1000)
"""


@pytest.mark.parametrize(
    "body",
    [
        "raised('SIGINT')",
        "try: raised('SIGINT')\nexcept KeyboardInterrupt: pass",
        "try: raised('SIGINT')\nexcept BaseException: raise ValueError('converted')",
        "try: raised('SIGINT')\nexcept BaseException: sys.exit(0)",
        IN_A_DESTRUCTOR,
        IN_A_THREAD,
        IN_A_PROCESS,
    ],
    ids=["plain", "caught", "converted", "exit", "destructor", "thread", "process"],
)
def test_an_interrupt_in_the_middle(body: str) -> None:
    assert ended(program(instead("summary.cost", body), "summary", "digits")) == INTERRUPTED


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_finally_runs_before_the_end(name: str, code: int, tmp_path: Path) -> None:
    body = f"try: raised({name!r})\nfinally: open('tidy', 'w').close()"
    assert ended(program(instead("summary.cost", body), "summary", "digits"), tmp_path).code == code
    assert (tmp_path / "tidy").exists()


def test_a_second_interrupt_breaks_nothing_off_and_a_third_does(tmp_path: Path) -> None:
    tidies = "raised('SIGINT'); open('tidy', 'w').close(); raised('SIGINT'); open('more', 'w').close()"
    body = f"try: raised('SIGINT')\nfinally: {tidies}"
    assert ended(program(instead("summary.cost", body), "summary", "digits"), tmp_path) == INTERRUPTED
    assert [path.name for path in tmp_path.iterdir()] == ["tidy"]


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_that_is_switched_off_stays_so(name: str) -> None:
    """As `nohup` and a shell's `&` do it."""
    command = program(instead("summary.nearest_image_size", f"raised({name!r})\nreturn 224"), "summary", "digits")
    ignored = ended(in_shell(command, ignored=name.removeprefix("SIG")))
    assert (ignored.code, ignored.err) == (0, b"")


@pytest.mark.parametrize("command", [["verify", "--backend", "numpy"], ["diff", "a.npz", "a.npz"]], ids=lambda command: command[0])
def test_where_no_line_can_be_drawn_over_there_is_no_bar(command: list[str], files: Path) -> None:
    """On a terminal, too, and no empty line in its place."""
    master, slave = pty.openpty()
    found = ended([*MODULE, *command], files, environment={"TERM": "dumb"}, stderr=slave)
    os.close(slave)
    assert (found.code, _read(master)) == (0, b"")
    os.close(master)


def test_an_interrupt_inside_of_a_progress_bar() -> None:
    """On a terminal: one line, and the cursor is there again."""
    body = "options['progress']('numpy float64')\nraised('SIGINT')"
    master, slave = pty.openpty()
    command = program(instead("verify.agreement", body), "verify", "--backend", "numpy")
    found = ended(command, environment={"TERM": "xterm"}, stderr=slave)
    os.close(slave)
    drawn = b""
    while chunk := _read(master):
        drawn += chunk
    os.close(master)
    assert (found.code, found.out) == (130, b"")
    assert b"numpy float64" in drawn
    assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")
    assert drawn.count(b"interrupted") == 1
    assert b"Traceback" not in drawn


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # Linux's word for the end of a terminal
        return b""


@pytest.mark.parametrize(
    "fault", ["RuntimeError('\\x1b[31mred')", "KeyError(1)", "RecursionError('deep')", "AssertionError()", "EOFError()"]
)
def test_a_bug_of_ours(fault: str) -> None:
    found = ended(program(instead("summary.stage_of", f"raise {fault}"), "summary", "digits"))
    assert found.code == 70
    assert found.err.strip().startswith(b"Traceback")
    assert fault.partition("(")[0] in found.err.decode()
    assert found.lines[-1].startswith("scalablevit-ref: this is a bug of ours")
    assert all(line.isprintable() for line in found.lines)
    assert found.out.startswith(b"ScalableViT digits")


def test_too_little_memory_is_one_line() -> None:
    body = "import numpy as np\nnp.ones(2**46)"
    found = ended(program(instead("summary.cost", body), "summary", "digits"))
    assert (found.code, found.out, len(found.lines)) == (2, b"", 1)
    assert "Unable to allocate 512. TiB" in found.lines[0]
    found = ended(program(instead("verify.agreement", "raise MemoryError"), "verify", "--backend", "numpy"))
    assert found == (2, b"", b"scalablevit-ref: there is not enough memory; fewer --image, or one --backend needs less\n")


def test_an_exit_that_is_not_ours_is_no_verdict() -> None:
    found = ended(program(instead("summary.cost", "sys.exit(0)"), "summary", "digits"))
    assert (found.code, len(found.lines)) == (2, 1)


def test_one_door_to_the_terminal() -> None:
    """Only `terminal.py` makes consoles and writes; what else needs rich makes tables and bars."""
    for path in sorted(Path(cli.__file__).parent.glob("*.py")):
        if path.name in {"terminal.py", "streams.py", "endings.py"}:
            continue
        found = list(_past_the_door(ast.parse(path.read_text("utf-8"))))
        assert found == [], path.name


DOORS = ("typer.echo", "print", "Console", "Text", "Text.from_markup", "sys.stdout.write")


def _past_the_door(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in DOORS:
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and any(alias.name in ("TextColumn", "escape") for alias in node.names):
            yield ast.unparse(node)


STARTS = {
    "ImportError": "raise ImportError('libcudart.so.12: cannot open shared object file')",
    "RuntimeError": "raise RuntimeError('jaxlib version 0.1 is newer than jax\\nand more')",
    "AttributeError": "import os; os.no_such",
    "SystemExit": "raise SystemExit(3)",
    "ModuleNotFoundError": "import no_such_part",
}


@pytest.mark.parametrize("fault", share(list(STARTS), of=2))
def test_a_backend_that_does_not_start_is_a_row(fault: str, tmp_path: Path) -> None:
    package = tmp_path / "jax"
    package.mkdir()
    (package / "__init__.py").write_text(STARTS[fault])
    environment = {"PYTHONPATH": str(tmp_path)}
    arguments = ["verify", "--variant", "digits", "--dtype", "float32", "--backend", "torch", "--backend", "jax"]
    found = ended([*MODULE, *arguments], tmp_path, environment=environment)
    assert (found.code, found.err) == (0, b"")
    lines = found.out.decode().splitlines()
    assert any(line.split()[:3] == ["jax", "float32", "absent"] for line in lines)
    assert any(line.split()[:3] == ["torch", "float32", "agrees"] for line in lines)
    assert sum(f"does not start: {fault}" in line for line in lines) == 1
    rows = json.loads(ended([*MODULE, *arguments, "--json"], tmp_path, environment=environment).out)["results"]
    assert {row["absent"].split(":")[1].strip() for row in rows if row["backend"] == "jax"} == {fault}
    script = "import numpy as np, scalablevit_ref as sv\ntry: sv.to_backend(np.ones(1), 'jax')\nexcept ImportError as e: print(e)"
    assert b"jax" in ended([sys.executable, "-c", script], tmp_path, environment=environment).out


def test_a_contender_that_does_not_start_is_told_by_bench(tmp_path: Path) -> None:
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text(STARTS["SystemExit"])
    arguments = [*MODULE, *CALLS["bench"][:-1], "numpy,jax"]
    found = ended(arguments, tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    assert found.code == 0, found.err
    assert b"not run: jax (digits): does not start: SystemExit: 3\n" in found.out


def test_a_library_that_no_command_does_without_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('no such symbol')")
    found = ended([*MODULE, "summary", "digits"], tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    place = tmp_path / "rich" / "__init__.py"
    said = f"scalablevit-ref: a library that it needs does not load: ImportError: no such symbol ({place}, line 1)\n"
    assert (found.code, found.out, found.err.decode()) == (2, b"", said)


@pytest.mark.parametrize("command", [["draw", "digits", "-o", "x.svg"], [*CALLS["bench"], "--plot", "x.svg"]])
def test_matplotlib_that_does_not_start_is_one_line_with_its_place(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("\nraise ImportError('ft2font: no such symbol')")
    found = ended([*MODULE, *command], tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    place = tmp_path / "matplotlib" / "__init__.py"
    line = f"scalablevit-ref: ImportError: ft2font: no such symbol ({place}, line 2, in <module>)\n"
    assert found == (2, b"", line.encode())
    assert not (tmp_path / "x.svg").exists()


def test_torch_that_does_not_start_is_told_by_bench(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise OSError('libtorch_cpu.so: file too short')")
    found = ended([*MODULE, *CALLS["bench"]], tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    assert found == (
        2,
        b"",
        b"scalablevit-ref: bench needs torch, which does not start: OSError: libtorch_cpu.so: file too short\n",
    )


@pytest.mark.usefixtures("few_digits")
def test_a_backend_that_fails_while_it_runs_is_a_row(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not agree: exit code 1."""
    from scalablevit_ref.backends import torch

    right, count = torch.gelu, 0

    def fails(x: Any) -> Any:
        nonlocal count
        count += 1
        if count > 5:
            raise RuntimeError("out of memory\nand a stack")
        return right(x)

    monkeypatch.setattr(torch, "gelu", fails)
    code, out, err = run("verify", "--dtype", "float32")
    assert (code, err) == (1, "")
    assert "torch float32: failed: RuntimeError: out of memory\n" in out
    assert any(line.split()[:3] == ["torch", "float32", "FAILED"] for line in out.splitlines())
    assert "agree" not in out.splitlines()[-1]
    rows = json.loads(run("verify", "--dtype", "float32", "--json")[1])["results"]
    failed = {(row["backend"], row["device"]): row["failed"] for row in rows if "failed" in row}
    assert failed == {("torch", "cpu"): "RuntimeError: out of memory"}
    assert all(row["agrees"] for row in rows if row["backend"] == "numpy")


def test_the_embedded_checkpoint_is_read_as_it_was(run: Any) -> None:
    assert run("diff", str(digits.CHECKPOINT), str(digits.CHECKPOINT))[0] == 0
