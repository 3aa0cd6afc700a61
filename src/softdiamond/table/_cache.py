"""The tables that were asked for, kept in memory and on disk."""

from __future__ import annotations

import warnings

from softdiamond._cache_folder import cache_folder
from softdiamond.stable import group_law
from softdiamond.table._certificate import certify, missed
from softdiamond.table._table import BUILDER, Table, named, one_alpha

_memory: dict[tuple[float, int], Table] = {}


def lookup_table(alpha: float, d: int = 1) -> Table:
    """Table of one alpha, from memory, from the disk cache, or built now and stored in both.

    The disk cache lies in ``tables`` of the user's cache folder; the environment variable SOFTDIAMOND_CACHE names another
    folder, or ``off``. A file there is measured against the exact law before it is used; one that is damaged, foreign or not exact
    is rebuilt with a warning.

    Parameters
    ----------
    alpha : float
        Tail thickness, in [0.1, 2].
    d : int
        Number of weights of a group, 1 to 65,536; 1 is the scalar law.

    Raises
    ------
    ValueError
        If alpha is not one number in [0.1, 2], or d no integer in [1, 65536].

    Examples
    --------
    >>> from softdiamond.table import lookup_table
    >>> lookup_table(0.5) is lookup_table(0.5)
    True
    >>> round(lookup_table(0.5, 64).crossover, 6)
    0.003831
    """
    key = one_alpha(alpha), group_law.dimension(d)
    if key not in _memory:
        return _memory.setdefault(key, _from_disk(*key))  # threads that ask at the same time get one table
    return _memory[key]


def _from_disk(alpha: float, d: int) -> Table:
    folder = cache_folder("tables")
    if folder is None:
        return Table.build(alpha, d)
    path = folder / f"alpha-{alpha.hex()}-{'' if d == 1 else f'd-{d}-'}builder-{BUILDER}.npz"
    try:
        table = Table.load(path)
        if (table.alpha, table.d) != (alpha, d):
            raise ValueError(f"{str(path)!r} is the table of {named(table.alpha, table.d)}")
        # a few milliseconds (a group: tens), against whatever a checksum cannot see
        if missing := missed(certify(table)):
            raise ValueError(f"{str(path)!r} is not exact in {missing}")
        return table
    except OSError:
        pass
    except (ValueError, IndexError) as error:
        warnings.warn(f"a cached table is rebuilt: {error}", RuntimeWarning, stacklevel=3)
    table = Table.build(alpha, d)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.save(path)
    except OSError:
        pass  # a cache that cannot be written costs a tenth of a second at the next start, nothing more
    return table
