"""Comparisons of regularizers on real networks.

``card`` says what is compared (TOML), ``readers`` and ``data`` bring the splits, ``models`` the networks, ``train`` is the
one loop, ``measure`` what is measured on a trained network, ``runs`` makes one run's record; ``plan`` says which runs are
still to do, ``store`` keeps their records, ``engine`` and ``ray_engine`` perform them, ``forecast`` says how long they will
take, ``progress`` how far they are, ``summary`` what they show; ``claims`` are the paper's sentences with their tests,
``verdicts`` judges them.
"""

from softdiamond.experiments.errors import UserError

__all__ = ["UserError"]
