"""Docstrings are read by tools: examples in them run, and what they document is there."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import griffe
import pytest

import activity_embeddings
from activity_embeddings import training, transformations

MODULES = sorted(
    module.name
    for package in (training, transformations)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
)
DOCUMENTED = (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    if ">>>" in inspect.getsource(module):
        done = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
        assert done.attempted and not done.failed


def objects(member):
    """Yield an object and everything in it that is defined there."""
    yield member
    for inner in member.members.values():
        if not inner.is_alias:
            yield from objects(inner)


def test_every_documented_parameter_has_a_description_and_is_a_parameter():
    package = griffe.load(
        "activity_embeddings", docstring_parser="numpy", submodules=True, resolve_aliases=False
    )
    wrong, read = [], 0
    for member in objects(package):
        if member.docstring is None:
            continue
        for section in member.docstring.parse("numpy", warnings=False):
            if section.kind not in DOCUMENTED:
                continue
            for documented in section.value:
                read += 1
                names = [name.strip(" *`") for name in documented.name.split(",")]
                if not documented.description.strip():
                    wrong.append(f"{member.path}: {documented.name} has no description")
                if section.kind is griffe.DocstringSectionKind.parameters and member.is_function:
                    known = {parameter.name.lstrip("*") for parameter in member.parameters}
                    wrong += [f"{member.path}: no parameter {n}" for n in names if n not in known]
    assert read > 700
    assert not wrong, "\n".join(wrong)


def target(member):
    """Return what a name stands for."""
    return member.final_target if member.is_alias else member


def shown():
    """Return the paths of what the pages of the Python API show."""
    pages = sorted((Path(__file__).parents[1] / "docs/reference/api").glob("*.md"))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return re.findall(r"^::: (\S+)", text, flags=re.MULTILINE)


def test_each_parameter_on_the_pages_has_the_type_and_default_of_its_own():
    """Of names that share a line, tools give all but the first those of the first."""
    package = griffe.load(
        "activity_embeddings", docstring_parser="numpy", submodules=True, resolve_aliases=True
    )
    wrong, read = [], 0
    for path in shown():
        for member in objects(target(package[path.removeprefix("activity_embeddings.")])):
            for section in (
                member.docstring.parse("numpy", warnings=False) if member.docstring else ()
            ):
                if section.kind is not griffe.DocstringSectionKind.parameters:
                    continue
                for documented in section.value:
                    name = documented.name.strip(" *`")
                    one = (
                        member.parameters[name] if member.is_function else member.members.get(name)
                    )
                    if one is None:
                        continue
                    read += 1
                    default = str(one.default if member.is_function else one.value)
                    right = str(documented.annotation) == str(one.annotation)
                    # Tools call the function of a field, `field(default_factory=...)`.
                    right &= default.startswith("field(") or str(documented.value) == default
                    if not right:
                        wrong.append(f"{member.path}: {name}")
    assert read > 100
    assert not wrong, "\n".join(wrong)


def test_the_public_names_are_documented():
    undocumented = [
        name
        for name in activity_embeddings.__all__
        if not name.startswith("__") and not inspect.getdoc(getattr(activity_embeddings, name))
    ]
    assert not undocumented


def test_each_public_name_is_on_one_page():
    paths = shown()
    assert len(set(paths)) == len(paths)
    # The pages say of these two modules what is in them, and of all store configs what they are.
    told = {"models", "objectives", "__version__"}
    told |= {name for name in activity_embeddings.__all__ if name.endswith("StoreConfig")}
    missing = set(activity_embeddings.__all__) - told - {path.rpartition(".")[2] for path in paths}
    assert not missing
