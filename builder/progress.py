"""Progress of long work: a bar on stderr for people, nothing where nobody looks."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

Advance = Callable[[str], None]
"""Is told what is done next, a path or a name."""

Bar = Callable[[str, int], AbstractContextManager[Advance]]
"""``with bar("packages", 11) as advance``: then ``advance`` is called once for each."""


@contextmanager
def no_bar(title: str, total: int) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda name: None


def bar_on(console: Console) -> Bar:
    """Bars on a console; none if it is no terminal, where they would be noise in a log."""

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[item]}", markup=False),
        )
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task(title, total=total, item="")
            yield lambda name: shown.update(task, advance=1, item=name)

    return bar if console.is_terminal else no_bar
