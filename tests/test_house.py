"""The house: imports go one way, files and functions stay short."""

import ast
import importlib.metadata
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import small

PACKAGE = small.ROOT / "mixkd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
# Each may import those of its own row and of the rows before; "ops" are pure functions of arrays.
ROWS = (
    ("_checks", "losses", "calibration", "mixup", "vicinal", "representation"),
    ("errors", "cpu", "files", "folder", "objectives", "config", "configs"),
    ("models", "weights", "data"),
    ("training",),
    ("evaluation", "report"),
    ("run",),
    ("experiment",),
    ("model", "export", "cli"),
)
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
APART = {  # of rows that are one because neither imports the other
    "report": ("training", "evaluation", "models", "weights", "data"),
    "evaluation": ("report",),
    "models": ("weights", "data"),
    "data": ("models", "weights"),
}


def _name(file: pathlib.Path) -> str:
    """The module or package of the first rank that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(file: pathlib.Path, *, typing: bool = False):
    """Yields all modules that a file imports, within functions too, as dotted names."""
    tree = ast.parse(file.read_text())
    skipped = set()
    if not typing:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped |= set(map(id, ast.walk(node)))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _own(file: pathlib.Path):
    """Yields the names of the first rank that a file imports from this package."""
    for name in _imports(file):
        parts = name.split(".")
        if parts[0] == "mixkd_jax" and len(parts) > 1:
            yield parts[1]


@pytest.mark.parametrize("name", sorted({_name(file) for file in FILES} - {"__init__", "py"}))
def test_imports_go_one_way(name):
    assert name in RANK, f"{name}: which row of the house is it in?"
    for file in FILES:
        if _name(file) != name:
            continue
        for used in _own(file):
            if used == "__version__":
                continue
            assert RANK[used] <= RANK[name], f"{file.relative_to(PACKAGE)} imports {used}"
            assert used not in APART.get(name, ()), f"{file.relative_to(PACKAGE)} imports {used}"


def test_the_report_needs_no_jax():
    modules = [
        ".".join(file.relative_to(small.ROOT).with_suffix("").parts)
        for file in (PACKAGE / "report").rglob("*.py")
        if file.stem != "__init__"
    ]
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=small.ROOT
    )
    assert not set(done.stdout.split()) & {"jax", "flax", "optax", "orbax"}


def test_what_is_imported_is_declared():
    project = tomllib.loads((small.ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    declared = {_plain(re.split(r"[\[<>=; ]", each)[0]) for each in asked}
    owners = importlib.metadata.packages_distributions()
    for file in FILES:
        for name in {name.partition(".")[0] for name in _imports(file)}:
            if name not in sys.stdlib_module_names and name != "mixkd_jax":
                assert {_plain(owner) for owner in owners[name]} & declared, (file, name)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_nothing_but_the_entrances_imports_runs():
    users = {_name(file) for file in FILES if "run" in _own(file)}
    assert users <= {"run", "experiment", "cli", "export", "model"}


def test_files_are_short_and_say_first_what_they_are():
    for file in FILES:
        text = file.read_text()
        assert text.count("\n") <= 300, file
        told = ast.get_docstring(ast.parse(text))
        assert told and told.split("\n")[0].endswith("."), file


def test_functions_are_short():
    """But for what is said of them."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                first = body[0].lineno if body else node.lineno
                assert (node.end_lineno or first) - first < 60, f"{file}: {node.name}"


def test_nothing_runs_what_a_file_says():
    """No pickle, marshal, yaml or eval; a config, which is the user's own program, alone is run."""
    loaders = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "torch"}
    for file in FILES:
        assert not {name.partition(".")[0] for name in _imports(file, typing=True)} & loaders, file
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "compile", "__import__", "np.load"), file
            if called.startswith("runpy."):
                assert file == PACKAGE / "cli" / "load.py"


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_tests(tmp_path):
    """With the options of this project; without a limit xdist would wait for ever."""
    (tmp_path / "test_dies.py").write_text("import os\ndef test_dies(): os._exit(1)\n")
    (tmp_path / "test_lives.py").write_text("def test_lives(): pass\n")
    command = [sys.executable, "-m", "pytest", f"--config-file={small.ROOT / 'pyproject.toml'}"]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "crashed while running" in done.stdout, done.stdout
