"""A student's module or notebook: only its imports, definitions and constants are executed.

Training, plotting and downloads are in other statements, or in calls that are not executed here.
This keeps a script from training when it is checked. It does not protect against hostile code.
"""

import __future__

import ast
import builtins
import importlib
import importlib.abc
import importlib.util
import json
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddim_keras.config import InputError

LARGEST_FILE = 32 * 2**20  # bytes; a notebook with many pictures has a few MiB
LIBRARIES = {"math", "cmath", "numpy", "torch", "tensorflow", "keras", "jax", "functools", "os"}
LIBRARIES |= {
    "itertools",
    "dataclasses",
    "collections",
    "typing",
    "types",
    "flax",
    "optax",
    "tf_keras",
}
# Slow to import, or made for notebooks, and irrelevant to the gaps.
DISPLAY = {"matplotlib", "tensorflow_datasets", "IPython", "google", "wandb", "seaborn", "plotly"}
DISPLAY |= {"tensorboard", "torchsummary", "torchinfo", "ipywidgets", "imageio", "tqdm", "pandas"}
# Calls of libraries that read data or train, whatever they are assigned to.
SLOW_CALLS = {"load", "fit", "data", "datasets", "DataLoader", "download", "get_file", "hub"}
SLOW_CALLS |= {"from_pretrained", "image_dataset_from_directory", "applications", "read_csv"}
NETWORK_NAME = re.compile(r"(^|_)(network|model|unet|net|ddpm|ddim|denoiser|diffusion)\d*$", re.I)


class MissingModule(Exception):
    """The student's code used a module that is not installed here."""


class Absent:
    """Placeholder for a module that is not imported, and for its contents."""

    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def __getattr__(self, attribute: str) -> "Absent":
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return Absent(f"{self._name}.{attribute}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._name.split(".")[0] not in DISPLAY:
            raise MissingModule(f"it needs {self._name.split('.')[0]}, which is not installed")
        if self._name.startswith("tqdm") and args:
            is_count = self._name.endswith("range") and isinstance(args[0], int)
            return ProgressBar(range(*args) if is_count else args[0])
        return args[0] if args else self  # a decorator returns its function

    def __getitem__(self, key: Any) -> "Absent":
        return self  # as in annotations

    def __setitem__(self, key: Any, value: Any) -> None:
        """Does nothing: a plot setting."""

    __setattr__ = __setitem__

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[()]:
        return ()

    def __iter__(self) -> Any:
        return iter(())

    def __enter__(self) -> "Absent":
        return self

    def __exit__(self, *error: Any) -> None:
        return None


class ProgressBar:
    """Iterates like `tqdm`, without a bar."""

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable

    def __iter__(self) -> Any:
        return iter(self.iterable)

    def __len__(self) -> int:
        return len(self.iterable)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return lambda *args, **kwargs: None


class Source:
    """The statements of a file, and the namespace after executing the harmless ones.

    Attributes:
        statements: statements at the top level of the file, or of all cells of a notebook.
        namespace: the names that were defined.
        problems: for names that could not be defined, the reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: dict[str, str] = {}
        self.statements = parse(path, self.problems)
        name = f"student_{path.stem}"  # no name of a library
        self.namespace: dict[str, Any] = {"__name__": name, "__file__": str(path)}
        # Notebooks have these without an import.
        for function in ("display", "get_ipython"):
            self.namespace[function] = Absent(f"IPython.{function}")
        postpones = any(map(_postpones_annotations, self.statements))
        self.flags = __future__.annotations.compiler_flag if postpones else 0
        self.needed: set[str] = set()

    def execute(self, wanted: Sequence[str]) -> None:
        """Executes imports, definitions, and constants.

        Args:
            wanted: names of functions and methods to be called later. A constant that is computed
                by the student's own functions is executed if one of these needs it.
        """
        self.needed = _needed_names(self.statements, set(wanted))
        # Classes look up their module, for example to resolve annotations.
        self.module = module = types.ModuleType(self.namespace["__name__"])
        module.__dict__.update(self.namespace)
        module.__dict__["__source__"] = {
            statement.name: ast.unparse(statement)
            for statement in self.statements
            if isinstance(statement, ast.ClassDef)
        }
        self.namespace = module.__dict__
        sys.modules[module.__name__] = module
        for statement in self.statements:
            self._execute(statement)

    def numbers(self) -> list[float]:
        """The distinct numbers between 0 and 1 in the file."""
        nodes = (node for statement in self.statements for node in ast.walk(statement))
        found = (node.value for node in nodes if isinstance(node, ast.Constant))
        return sorted({value for value in found if isinstance(value, float) and 0 < value < 1})

    def _execute(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._import(statement)
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._run(statement, [statement.name])
        elif isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if statement.value is not None and self._is_constant(statement.value, targets):
                names = [node.id for node in _nodes(*targets) if isinstance(node, ast.Name)]
                self._run(statement, names)
        elif isinstance(statement, ast.If):
            self._execute_branch(statement)
        elif isinstance(statement, ast.Try):
            if all(isinstance(inner, ast.Import | ast.ImportFrom) for inner in statement.body):
                self._run(statement, [])
            else:
                for inner in statement.body:
                    self._execute(inner)
        elif isinstance(statement, ast.Expr) and _sets_environment(statement.value):
            self._run(statement, [])

    def _execute_branch(self, statement: ast.If) -> None:
        names = {node.id for node in _nodes(statement.test) if isinstance(node, ast.Name)}
        if "__name__" in names or not self._is_constant(statement.test, []):
            return
        try:
            expression = ast.fix_missing_locations(ast.Expression(statement.test))
            chosen = eval(compile(expression, str(self.path), "eval"), self.namespace)
        except Exception:
            return
        for inner in statement.body if chosen else statement.orelse:
            self._execute(inner)

    def _run(self, statement: ast.stmt, names: list[str]) -> None:
        try:
            tree = ast.Module([statement], [])
            exec(compile(tree, str(self.path), "exec", self.flags, True), self.namespace)
        except Exception as error:
            definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            if isinstance(statement, definition) and statement.decorator_list:
                statement.decorator_list = []  # of a module that is not installed, for example
                self._run(statement, names)
                return
            for name in names:
                self.problems[name] = f"line {statement.lineno}: {describe(error)}"

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            return
        module = statement.module if isinstance(statement, ast.ImportFrom) else None
        for alias in statement.names:
            name = f"{module or ''}.{alias.name}".strip(".") if module else alias.name
            bound = alias.asname or (alias.name if module else alias.name.split(".")[0])
            if name.split(".")[0] in DISPLAY:
                if alias.name != "*":
                    self.namespace[bound] = Absent(name if alias.asname or module else bound)
                continue
            single = (
                ast.ImportFrom(module, [alias], 0)
                if isinstance(statement, ast.ImportFrom)
                else ast.Import([alias])
            )
            try:
                tree = ast.Module([ast.copy_location(single, statement)], [])
                exec(
                    compile(ast.fix_missing_locations(tree), str(self.path), "exec"), self.namespace
                )
            except ImportError:
                if alias.name != "*":
                    self.namespace[bound] = Absent(name if alias.asname or module else bound)
            except Exception as error:
                self.problems[bound] = f"line {statement.lineno}: {describe(error)}"

    def _is_constant(self, value: ast.expr, targets: Sequence[ast.expr]) -> bool:
        """Whether a value is computed only by libraries, or by the student's code and needed."""
        names = {
            node.id
            for node in _nodes(*targets)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        needed = bool(names & self.needed) and not any(map(NETWORK_NAME.search, names))
        if any(isinstance(node, ast.Await | ast.Yield | ast.YieldFrom) for node in _nodes(value)):
            return False
        if isinstance(value, ast.Lambda):
            return True
        return all(
            self._may_call(node.func, needed)
            for node in _nodes(value)
            if isinstance(node, ast.Call)
        )

    def _may_call(self, function: ast.expr, needed: bool) -> bool:
        path = []
        while isinstance(function, ast.Attribute):
            path.append(function.attr)
            function = function.value
        if SLOW_CALLS.intersection(path):
            return False
        if not isinstance(function, ast.Name):
            return True  # a method of a literal, or of the result of a call, which is looked at too
        root = self.namespace.get(function.id)
        if root is None:
            return function.id not in {"open", "input", "exec", "eval", "__import__"} and (
                hasattr(builtins, function.id) or needed
            )
        if isinstance(root, Absent):
            return False
        if isinstance(root, types.ModuleType):
            return root.__name__.split(".")[0] in LIBRARIES
        if function.id in SLOW_CALLS:
            return False
        is_own = getattr(root, "__module__", None) == self.namespace["__name__"]
        return needed or not is_own


class LocalModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a module beside the student's file in the same way, without its training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        file = self.folder / f"{fullname}.py"
        is_library = fullname in LIBRARIES or fullname in sys.stdlib_module_names
        if "." in fullname or is_library or not file.is_file():
            return None
        return importlib.util.spec_from_file_location(fullname, file, loader=self)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        spec = module.__spec__
        if spec is None or spec.origin is None:
            raise ImportError(f"{module.__name__} has no file")
        source = Source(Path(spec.origin))
        source.namespace = module.__dict__
        for statement in source.statements:
            source._execute(statement)


def parse(path: Path, problems: dict[str, str] | None = None) -> list[ast.stmt]:
    """The statements of a module, or of all code cells of a notebook.

    GPUs that they name are replaced by the processor.

    Args:
        problems: gets the cells with a syntax error, which are left out: the others may be right.

    Raises:
        InputError: if the file cannot be read, is too large, or has a syntax error.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path} is larger than {LARGEST_FILE // 2**20} MiB")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file in UTF-8") from None
    if path.suffix != ".ipynb":
        return [_WithoutGpu().visit(statement) for statement in _parse_python(text, str(path))]
    try:
        cells = json.loads(text)["cells"]
        texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a notebook of format 4") from None
    statements = []
    for number, cell in enumerate(texts, start=1):
        first_line = cell.lstrip().split("\n")[0]
        if first_line.startswith("%%") and not re.match(r"%%(time|capture)\b", first_line.strip()):
            continue  # a cell of another language
        try:
            statements += _parse_python(cell, f"code cell {number}")
        except InputError as error:
            if problems is not None:
                where, _, problem = str(error).partition(", ")
                problems[where] = problem
    return [_WithoutGpu().visit(statement) for statement in statements]


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def _parse_python(text: str, where: str) -> list[ast.stmt]:
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError):
        pass
    # Magics, shell commands and questions of a notebook, also in a module exported from one.
    rest = r"(?:.*\\\n)*.*"  # also on the next lines, after backslashes
    magic = rf"(?:%%?[A-Za-z_]|!(?!=)|\?|pip install ){rest}|[\w, ]+=\s*[%!]{rest}"
    command = re.compile(rf"^(\s*)({magic}|[\w.]+\?\??\s*)$", re.MULTILINE)
    try:
        return ast.parse(command.sub(r"\1pass", text)).body
    except SyntaxError as error:
        raise InputError(f"{where}, line {error.lineno}: {error.msg}") from None
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


class _WithoutGpu(ast.NodeTransformer):
    """Replaces GPUs by the processor: `torch.device("cuda")`, `x.cuda()`.

    A student's file may name the GPU that it was trained on; here there is none.
    """

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if isinstance(node.value, str) and re.fullmatch(r"(cuda|mps)(:\d+)?", node.value):
            node.value = "cpu"
        return node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("autocast", "GradScaler"):
            return node  # without a GPU they do nothing
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and name == "cuda":
            node.func.attr, node.args, node.keywords = "cpu", [], []
        return node


def _postpones_annotations(statement: ast.stmt) -> bool:
    """`from __future__ import annotations`."""
    return (
        isinstance(statement, ast.ImportFrom)
        and statement.module == "__future__"
        and any(alias.name == "annotations" for alias in statement.names)
    )


def _nodes(*trees: ast.AST) -> list[ast.AST]:
    return [node for tree in trees for node in ast.walk(tree)]


def _sets_environment(value: ast.expr) -> bool:
    """Calls such as `os.environ.setdefault("KERAS_BACKEND", "jax")` and `sys.path.append("..")`."""
    return isinstance(value, ast.Call) and bool(
        re.match(r"(os\.environ\.setdefault|sys\.path\.(append|insert))\b", ast.unparse(value.func))
    )


def _global_names(tree: ast.AST) -> set[str]:
    """The names that are read, except local variables and parameters of a function."""
    loaded: set[str] = set()
    local: set[str] = set()
    inner: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            (loaded if isinstance(node.ctx, ast.Load) else local).add(node.id)
        elif isinstance(node, ast.arg):
            local.add(node.arg)
        if isinstance(node, ast.FunctionDef) and node is not tree:
            inner |= _global_names(node)
        else:
            waiting.extend(ast.iter_child_nodes(node))
    return (loaded | inner) - (local if isinstance(tree, ast.FunctionDef) else set())


def _needed_names(statements: Sequence[ast.stmt], wanted: set[str]) -> set[str]:
    """The names used, directly or indirectly, by wanted functions and classes of wanted methods."""
    uses: dict[str, set[str]] = {}
    found = []
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            uses.setdefault(statement.name, set()).update(_global_names(statement))
            inner = {node.name for node in _nodes(statement) if isinstance(node, ast.FunctionDef)}
            if wanted & {plain(name) for name in inner}:
                found.append(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for node in _nodes(*targets):
                if isinstance(node, ast.Name):
                    uses.setdefault(node.id, set()).update(_global_names(statement.value))
    needed: set[str] = set()
    while found:
        name = found.pop()
        if name not in needed:
            needed.add(name)
            found.extend(uses.get(name, ()))
    return needed


def plain(name: str) -> str:
    """A name without capitals and underscores: `reverseDiffusion` is `reverse_diffusion`."""
    return name.replace("_", "").lower()
