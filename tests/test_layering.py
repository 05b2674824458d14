"""Imports point down the floors of the house, never up, never sideways between rooms of one floor."""

import ast
from pathlib import Path

import pytest

import zoo

FLOORS = [
    {"errors"},
    {"registry", "causal", "files", "signals", "hub_errors"},
    {"wavefront", "rowwise"},
    {"sampling", "checking"},
    {"layers", "likelihoods", "data"},
    {"models", "recipe"},
    {"folder", "evaluation", "pictures", "card", "checkpoint", "run_folder", "plots", "page", "classifier"},
    {"hub_files"},
    {"training", "hub"},
    {"catalog"},
    {"findings"},
    {"comparison"},
    {"report"},
    {"cli"},
]
# sampling and checking share a floor in the plan, and checking draws samples to verify them.
SIDEWAYS = {("checking", "sampling")}
PACKAGE = Path(zoo.__file__).parent


def floor(room):
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "zoo":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("zoo.")]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for other in imported_rooms(path):
        if other != room and (room, other) not in SIDEWAYS:
            assert floor(other) < floor(room), f"{room} imports {other}"
