"""Docstrings are read by tools: examples in them run, and what they document is there."""

import doctest
import importlib
import inspect
import pkgutil

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


def test_the_public_names_are_documented():
    undocumented = [
        name
        for name in activity_embeddings.__all__
        if not name.startswith("__") and not inspect.getdoc(getattr(activity_embeddings, name))
    ]
    assert not undocumented
