"""Reads the documentation of installed Python packages as one passage per documented object."""

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import logging
import os.path
import pkgutil
import platform
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from types import GenericAlias, MethodType, ModuleType

_log = logging.getLogger(__name__)

_MINIMUM_WORDS = 4
_BUILTINS = "builtins"
# os.path is a name for one of these modules, and os re-exports the others: nobody imports them directly.
_IMPLEMENTATIONS = frozenset({"posix", "nt", "posixpath", "ntpath", "genericpath"})
# distutils is gone from Python 3.12 on and is replaced by setuptools where that is installed; importing
# antigravity opens a browser; the xx modules are examples for authors of C extensions.
_SKIPPED_TOP_LEVEL = frozenset({"antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data"})
_SKIPPED_TOP_LEVEL |= {"test", "this", "turtledemo", "xxlimited", "xxlimited_35", "xxsubtype"}
_SKIPPED_SUBMODULES = frozenset({"conftest", "test", "tests"})
_SELF = re.compile(r"^\((?:self|cls)(?:, /)?(?:, |(?=\)))")
# What namedtuple and dataclass write by themselves.
_GENERATED = re.compile(r"Alias for field number \d+|\w+\([^\n]*\)( -> None)?")

# Orders the names that one object can be reached by: the smallest is the one users would write.
_Rank = tuple[bool, bool, int, bool, str]
_METHOD = 100  # more than any dots in a name


@dataclass(frozen=True)
class DocumentedObject:
    """A module, class, function, method or property together with its own docstring.

    `name` is what a user would write to reach it ("json.dumps", "str.split") and identifies the passage;
    `signature` is its argument list in parentheses, empty where there is none; `source` names its module.
    """

    name: str
    signature: str
    docstring: str
    source: str


@dataclass(frozen=True)
class _Candidate:
    rank: _Rank
    name: str
    source: str
    value: object

    @property
    def renamed(self) -> bool:
        return _attribute(self.value, "__name__") != self.name.rpartition(".")[2]


def read_documentation(spec: str) -> Iterator[DocumentedObject]:
    """Return the documented objects of the packages in `spec`, sorted by name.

    `spec` is "stdlib" for the whole standard library, or module names separated by commas, each read with
    its submodules ("numpy", "json,http.client"). The modules are imported; those that cannot be imported
    here are left out. Raises ValueError for a module that is not installed.
    """
    names = _resolve(spec)
    with _quiet():
        modules = {name: module for name in names if (module := _import(name)) is not None}
        documented = _documented(modules)
    return iter(documented)


def fingerprint(spec: str) -> str:
    """Return a digest that changes when `read_documentation(spec)` may give something else.

    It covers the Python version, the names of the modules and the versions of the distributions they come
    from, and imports nothing; edits to an installed package that keep its version go unnoticed.
    Raises ValueError for a module that is not installed.
    """
    names = _resolve(spec)
    parts = [platform.python_implementation(), platform.python_version(), sys.platform, *names]
    packages = sorted({name.partition(".")[0] for name in names} - sys.stdlib_module_names)
    if packages:
        distributions = importlib.metadata.packages_distributions()
        owners = {owner for package in packages for owner in distributions.get(package, ())}
        parts += [f"{owner}=={importlib.metadata.version(owner)}" for owner in sorted(owners)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _resolve(spec: str) -> list[str]:
    """Return the names of the modules that `spec` stands for, without importing any."""
    if spec.strip() == "stdlib":
        wanted = sorted(name for name in sys.stdlib_module_names if _is_public(name))
        specs = [(name, found) for name in wanted if (found := _find(name)) is not None]
    else:
        wanted = [name.strip() for name in spec.split(",") if name.strip()]
        specs = [(name, found) for name in wanted if (found := _find(name)) is not None]
        missing = sorted(set(wanted) - {name for name, _ in specs})
        if missing or not wanted:
            raise ValueError(
                f"no Python module named {', '.join(map(repr, missing or [spec]))} is installed here; give "
                "'stdlib' or the import names of installed packages, separated by commas"
            )
    names = {name for top, found in specs for name in (top, *_submodules(top, found))}
    return sorted(names | {"os.path"} if "os" in names else names)


def _find(name: str) -> ModuleSpec | None:
    """Return the import spec of a dotted module name; importlib.util.find_spec would import its parents."""
    if name == "os.path":
        return _find("os")
    top, *rest = name.split(".")
    try:
        found = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    for part in rest:
        if found is None or found.submodule_search_locations is None:
            return None
        top = f"{top}.{part}"
        found = PathFinder.find_spec(top, list(found.submodule_search_locations))
    return found


def _submodules(name: str, spec: ModuleSpec) -> Iterator[str]:
    locations: Sequence[str] = list(spec.submodule_search_locations or ())
    for module in pkgutil.iter_modules(locations):
        if module.name.startswith("_") or module.name in _SKIPPED_SUBMODULES:
            continue
        full_name = f"{name}.{module.name}"
        yield full_name
        if module.ispkg and (found := PathFinder.find_spec(full_name, locations)) is not None:
            yield from _submodules(full_name, found)


def _is_public(module_name: str) -> bool:
    top, *rest = module_name.split(".")
    if top in _IMPLEMENTATIONS or top in _SKIPPED_TOP_LEVEL:
        return False
    return not any(part.startswith("_") for part in (top, *rest))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what modules say while they are imported or looked at off the terminal."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _import(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    # A module may fail in any way on a platform it was not written for, by leaving the process too.
    except (Exception, SystemExit) as error:
        _log.debug("module %s left out: %r", name, error)
        return None


def _documented(modules: dict[str, ModuleType]) -> list[DocumentedObject]:
    best: dict[int, _Candidate] = {}
    for module_name, module in modules.items():
        _keep_best(best, _members_of_module(module_name, module))
    reachable = {key for key, candidate in best.items() if not candidate.renamed}
    for candidate in sorted(best.values(), key=lambda each: each.name):
        if isinstance(candidate.value, type):
            _keep_best(best, _members_of_class(candidate, candidate.value, reachable))
    passages = {name: _passage(name, "", module, name) for name, module in modules.items()}
    for candidate in sorted(best.values(), key=lambda each: each.name):
        signature = _signature(candidate.value)
        passage = _passage(candidate.name, signature, candidate.value, candidate.source)
        # Where a package holds a function named like one of its modules, the function is what it offers.
        if passage is not None or candidate.name not in passages:
            passages[candidate.name] = passage
    return [passage for _, passage in sorted(passages.items()) if passage is not None]


def _keep_best(best: dict[int, _Candidate], candidates: Iterable[_Candidate]) -> None:
    for candidate in candidates:
        key = id(_underlying(candidate.value))
        if key not in best or candidate.rank < best[key].rank:
            best[key] = candidate


def _members_of_module(module_name: str, module: ModuleType) -> Iterator[_Candidate]:
    """Yield the public objects of a module, but for those that another public module defines."""
    exported = frozenset(getattr(module, "__all__", ()))
    prefix = "" if module_name == _BUILTINS else f"{module_name}."
    for name in sorted(exported or vars(module)):
        value = _attribute(module, name)
        if name.startswith("_") or value is None or isinstance(value, ModuleType):
            continue
        if not isinstance(value, type) and not _docstring(value):
            continue
        if not _belongs(value, module_name, exported=name in exported):
            continue
        full_name = prefix + name
        renamed = _attribute(value, "__name__") != name
        rank = (module_name != _BUILTINS, name not in exported, full_name.count("."), renamed, full_name)
        yield _Candidate(rank, full_name, module_name, value)


def _belongs(value: object, module_name: str, *, exported: bool) -> bool:
    """Tell whether users would import `value` from this module rather than from where it was defined."""
    home = _attribute(value, "__module__")
    if not isinstance(home, str) or module_name in {home, _BUILTINS}:
        return True
    if _is_public(home) and _exposes(home, value):
        # asyncio.run is defined in asyncio.runners, but only asyncio says that it is its to offer.
        return exported and home.startswith(f"{module_name}.")
    top, home_top = module_name.partition(".")[0], home.partition(".")[0]
    if top in sys.stdlib_module_names:
        return home_top in sys.stdlib_module_names
    return exported or home_top.lstrip("_") == top


def _exposes(module_name: str, value: object) -> bool:
    found: object = sys.modules.get(module_name)
    for part in str(_attribute(value, "__qualname__") or _attribute(value, "__name__")).split("."):
        found = _attribute(found, part)
    return found is not None and _underlying(found) is _underlying(value)


def _members_of_class(owner: _Candidate, cls: type, reachable: set[int]) -> Iterator[_Candidate]:
    """Yield what a class defines, or takes over from a base class that users cannot reach by themselves."""
    seen: set[str] = set()
    for distance, base in enumerate(cls.__mro__):
        hidden = id(base) not in reachable and not _is_public(f"{base.__module__}.{base.__qualname__}")
        for name in sorted(set(vars(base)) - seen):
            seen.add(name)
            value = vars(base)[name]
            if name.startswith("_") or not (base is cls or hidden) or not _docstring(value):
                continue
            own_name = f"{base.__qualname__}.{name}"
            if isinstance(value, type) and value.__qualname__ != own_name:
                continue
            full_name = f"{owner.name}.{name}"
            # io.TextIOBase has what _io._TextIOBase defines, and so has io.StringIO: the namesake is meant.
            foreign = base.__name__.strip("_") != owner.name.rpartition(".")[2]
            renamed = _attribute(_underlying(value), "__qualname__") not in (own_name, None)
            # Methods come behind the functions that modules make of them, as random.randint is of a Random.
            rank = (True, True, _METHOD * (1 + foreign) + distance, renamed, full_name)
            nested = _Candidate(rank, full_name, owner.source, value)
            yield nested
            if isinstance(value, type):
                yield from _members_of_class(nested, value, reachable)


def _underlying(value: object) -> object:
    return value.__func__ if isinstance(value, (MethodType, classmethod, staticmethod)) else value


def _attribute(value: object, name: str) -> object:
    # Lazily made attributes may raise anything.
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _docstring(value: object) -> str:
    """Return the object's own docstring, not the one every object of its type shows; "" without one."""
    # dict[str, int] shows what dict does.
    docstring = None if isinstance(value, GenericAlias) else _attribute(_underlying(value), "__doc__")
    # Some classes, ThreadPoolExecutor for one, say what they are for where their arguments are explained.
    if docstring is None and isinstance(value, type) and inspect.isfunction(vars(value).get("__init__")):
        docstring = _attribute(vars(value)["__init__"], "__doc__")
    if not isinstance(docstring, str):
        return ""
    if not isinstance(value, type) and docstring == _attribute(type(value), "__doc__"):
        return ""
    return inspect.cleandoc(docstring).strip()


def _passage(name: str, signature: str, value: object, source: str) -> DocumentedObject | None:
    docstring = _docstring(value)
    if len(docstring.split()) < _MINIMUM_WORDS or _GENERATED.fullmatch(docstring):
        return None
    return DocumentedObject(name, signature, docstring, source)


def _signature(value: object) -> str:
    if not callable(_underlying(value)):
        return ""
    try:
        signature = inspect.signature(_underlying(value))  # type: ignore[arg-type]
        shown = [_shown(each) for each in signature.parameters.values()]
        return _SELF.sub("(", str(signature.replace(parameters=shown)))
    # Not every callable can tell, and annotations or wrappers may raise anything when asked.
    except Exception:
        return ""


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.default is parameter.empty:
        return parameter
    return parameter.replace(default=_Default(parameter.default))


class _Default:
    """Stands for a parameter's default in a signature.

    A default may be any object and its repr may show anything: cgi.parse has the environment of the
    process, with the credentials in it, and other functions have addresses or paths of this machine.
    """

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        value = self._value
        if value is None or isinstance(value, (bool, int, float, bytes)):
            return repr(value)
        if isinstance(value, str):
            return "..." if os.path.isabs(value) and len(value) > 1 else repr(value)
        name = _attribute(value, "__name__")
        return name if isinstance(name, str) else "..."
