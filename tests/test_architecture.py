"""The house: imports run down from floor to floor; the rooms of a floor do not know each other."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fpgan"
FLOORS = [  # from the top; "fpgan" is the package's own face
    ("door", ["fpgan", "cli"]),
    ("programs", ["benchmarks", "training", "evaluation"]),
    ("jobs", ["generation", "decoding"]),
    ("things", ["model", "data"]),
    ("rules", ["attribution", "perturbations", "distributed"]),
    ("ground", ["networks", "io"]),
    ("values", ["fingerprint"]),
    ("words", ["errors", "version"]),
]
CHAIN = ["benchmarks", "training", "evaluation"]  # the one on a floor: who stands before may import who stands behind
MOST_LINES = 350
FLOOR = {room: floor for floor, (_, rooms) in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    """The dotted name of a file's module."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def room_of(module):
    """The room that a module is in: fpgan.io.files is in io, fpgan itself in "fpgan"."""
    return module.split(".")[1] if "." in module else module


def imports(source):
    """The modules of fpgan that a piece of code imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "fpgan")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            if node.module.split(".")[0] == "fpgan":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    yield inner if inner in MODULES else node.module


def is_allowed(importer, imported):
    """Whether code in one room may import from another."""
    if importer == imported or FLOOR[importer] < FLOOR[imported]:
        return True
    if "fpgan" == imported and importer == "cli":  # both are doors
        return True
    return importer in CHAIN and imported in CHAIN and CHAIN.index(importer) < CHAIN.index(imported)


def test_every_package_and_module_at_the_top_is_in_the_picture():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert packages | modules | {"fpgan"} == set(FLOOR)
    assert len(FLOOR) == sum(len(rooms) for _, rooms in FLOORS)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_run_down_only(path):
    here = room_of(module_of(path))
    wrong = {module for module in imports(path.read_text()) if not is_allowed(here, room_of(module))}
    assert not wrong, f"{module_of(path)}, in {here}, imports {', '.join(sorted(wrong))}"


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: set(imports(path.read_text())) & set(MODULES) for module, path in MODULES.items()}
    while leaves := {module for module, below in graph.items() if not below & set(graph)}:
        graph = {module: below for module, below in graph.items() if module not in leaves}
    assert not graph, f"in circles, or above one: {', '.join(sorted(graph))}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_tells_one_story(path):
    assert len(path.read_text().splitlines()) <= MOST_LINES


def public_functions(node):
    """The functions and methods of a module that others may call, but for properties."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)
        if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
            names = {getattr(decorator, "attr", getattr(decorator, "id", "")) for decorator in child.decorator_list}
            if not names & {"property", "cached_property"}:
                yield child


def begins_with_a_verb(docstring):
    """Whether a docstring says what its function does, as "Computes" and "Returns" do: in the third person."""
    first = docstring.split()[0].strip(".,:;")
    return first.endswith("s") and first[0].isupper() and first not in ("This", "As", "Its", "Bits", "Images", "Parameters")


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_public_docstrings_begin_with_a_verb(path):
    told = {function.name: ast.get_docstring(function) or "-" for function in public_functions(ast.parse(path.read_text()))}
    assert not {name: docstring for name, docstring in told.items() if not begins_with_a_verb(docstring)}


def test_a_docstring_without_a_verb_is_noticed():
    assert begins_with_a_verb("Returns what is left.") and not begins_with_a_verb("The rest.")
    source = "class A:\n def b(self): ...\n def _c(self): ...\ndef d(): ..."
    assert [function.name for function in public_functions(ast.parse(source))] == ["b", "d"]


def untyped(source):
    """The parameters of public functions that have no type, but for `self` and `cls`: function and parameter."""
    for function in public_functions(ast.parse(source)):
        given = function.args
        for parameter in [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]:
            if parameter and parameter.annotation is None and parameter.arg not in ("self", "cls"):
                yield function.name, parameter.arg


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_public_parameters_have_types(path):
    assert not list(untyped(path.read_text()))


def test_a_parameter_without_a_type_is_noticed():
    source = "class A:\n def b(self, x, /, y: int, *z, k=1, **o): ...\n def _c(self, x): ...\ndef d(x: int, *y: int): ..."
    assert list(untyped(source)) == [("b", "x"), ("b", "z"), ("b", "k"), ("b", "o")]


@pytest.mark.parametrize("importer, source, allowed", [
    ("io", "def f():\n    from fpgan.decoding.rows import Row", False), ("model", "from fpgan import data", False),
    ("decoding", "from fpgan.generation import manifest", False), ("evaluation", "import fpgan.training.step", False),
    ("training", "from fpgan.evaluation import metrics", True), ("distributed", "import fpgan", False),
    ("cli", "import fpgan", True), ("training", "import fpgan", False), ("data", "from fpgan.io.files import lock", True),
])
def test_what_is_forbidden_is_noticed(importer, source, allowed):
    assert all(is_allowed(importer, room_of(module)) for module in imports(source)) == allowed
