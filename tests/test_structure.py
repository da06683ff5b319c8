"""The package's own imports: downward, and never in a circle (docs/design.md, section 8)."""

import ast
import graphlib
import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "transkimmer_jax"

# From the ground up. What stands in one row may import from its own row and from those before it. Longer names win.
FLOORS = (
    ("errors", "validation", "progress", "memory", "processors", "compilation", "runtime_names"),
    ("config", "console", "flags", "termination"),
    ("models",),
    ("distributed",),
    ("checkpoints",),
    ("models.heads", "models.pretrained"),
    ("data",),
    ("onnx",),
    ("inference",),
    ("evaluation",),
    ("reporting", "serving"),
    ("training",),
    ("cli",),
)
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def module_names():
    """Module name below the package ('models.heads') -> file; the package's face is none of them."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del names[""]
    return names


def imports_of(path, modules):
    """The package's modules that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "transkimmer_jax":
            base = node.module.removeprefix("transkimmer_jax").removeprefix(".")
            for alias in node.names:
                longer = f"{base}.{alias.name}".removeprefix(".")
                if longer in modules or base in modules:
                    yield longer if longer in modules else base
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("transkimmer_jax.") for alias in node.names if alias.name.startswith("transkimmer_jax."))


def graph():
    modules = module_names()
    return {name: set(imports_of(path, modules)) - {name} for name, path in modules.items()}


def floor(module):
    """The floor that a module stands on; None for one whose package has no place yet."""
    known = [name for name in FLOOR_OF if module == name or module.startswith(f"{name}.")]
    return FLOOR_OF[max(known, key=len)] if known else None


def test_no_module_imports_itself_by_way_of_others():
    assert len(list(graphlib.TopologicalSorter(graph()).static_order())) > 60  # raises CycleError, which names the modules


def test_modules_without_a_place():
    """These import nothing of the package, or everything; any other module, and every new one, stands on a floor."""
    assert {module for module in module_names() if floor(module) is None} == {"__main__", "extras", "forking"}


def test_imports_run_downward():
    upward = [
        f"{module} -> {imported}"
        for module, imports in graph().items()
        for imported in imports
        if (below := floor(imported)) is not None and (here := floor(module)) is not None and below > here
    ]
    assert upward == []


def test_files_of_tests_have_names_of_their_own():
    """Pytest imports them by these names, so a second one of a name is an error in a run of both, and in no run of one."""
    names = [path.name for path in pathlib.Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
