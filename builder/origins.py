"""Where the files of a tree come from: a source, a file of the recipe, an input or a wheel.

Recorded in ``tree.json``, so that a difference between two builds can be traced to what caused it. It is a word for
people: nothing measured or compared depends on it.
"""

from collections.abc import Iterable, Mapping

from assay.builder.recipe import LockedWheel, Recipe
from assay.builder.unpack import wheel_paths


def origins(recipe: Recipe, paths: Iterable[str], wheels: Mapping[LockedWheel, bytes]) -> dict[str, str]:
    """Path of the tree -> where it comes from; paths that the recipe's own lists do not explain are left out.

    Args:
        recipe: says what goes where.
        paths: of the tree.
        wheels: every wheel of the lock, unpacked before without complaint.
    """
    named = {f"{recipe.wheels_target}/{path}": origin for path, origin in _of_wheels(wheels)}
    named |= {path: f"input {name}" for name, path in recipe.inputs.items()}
    named |= {copy.target: f"recipe file {copy.source}" for copy in recipe.files}
    found: dict[str, str] = {}
    for path in paths:
        origin = named.get(path) or _of_source(recipe, path)
        if origin is not None:
            found[path] = origin
    return found


def _of_wheels(wheels: Mapping[LockedWheel, bytes]) -> Iterable[tuple[str, str]]:
    for wheel, data in wheels.items():
        origin = f"wheel {wheel.name} {wheel.version}"
        yield from ((path, origin) for path in wheel_paths(data, name=wheel.name, version=wheel.version))


def _of_source(recipe: Recipe, path: str) -> str | None:
    for copy in recipe.sources:
        if path == copy.target or path.startswith(f"{copy.target}/"):
            return f"source {copy.source}{path[len(copy.target) :]}"
    return None
