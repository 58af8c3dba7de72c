"""All pairs of columns of a junction tree at once: messages for whole subtrees instead of one walk a pair.

For a subtree below a separator S, one matrix holds P(r, S) for every cell r of every column in it. Two
columns that first meet at a clique are independent given what separates them there, so their table is one
product of such matrices. Rows of many columns travel together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dpforge.generators.marginals.graphical import GraphicalModel, summed
from dpforge.generators.marginals.junction import Clique, cells, shape

MOST_MESSAGE_CELLS = 30_000_000  # 240 MB; beyond it pairs are computed one by one


@dataclass(frozen=True)
class _Message:
    """P(rows, separator) of columns that lie behind a separator.

    Args:
        separator: Columns, ascending.
        rows: Places of the columns' cells in the table of all pairs, int64 ``(n,)``.
        joint: Probabilities ``(n, cells of the separator)``.
    """

    separator: Clique
    rows: np.ndarray
    joint: np.ndarray


def marginals(model: GraphicalModel, cliques: Sequence[Clique]) -> Iterator[np.ndarray]:
    """Yield the probabilities of every clique, one axis a column, as ``model.marginal`` gives them."""
    pairs = sum(len(clique) == 2 for clique in cliques)
    if pairs <= len(model.tree.sizes) or message_cells(model) > MOST_MESSAGE_CELLS:
        yield from (model.marginal(clique) for clique in cliques)
        return
    table, starts = pair_table(model), _starts(model.tree.sizes)
    for clique in cliques:
        if len(clique) != 2:
            yield model.marginal(clique)
            continue
        first, second = (slice(starts[c], starts[c + 1]) for c in clique)
        yield table[first, second]


def message_cells(model: GraphicalModel) -> int:
    """Return the numbers that the messages of :func:`pair_table` hold in all."""
    tree = model.tree
    behind = [0] * len(tree.cliques)
    total = 0
    for i in range(len(tree.cliques) - 1, 0, -1):
        separator = tree.separators[i]
        behind[i] += sum(tree.sizes[c] for c in tree.cliques[i] if c not in separator)
        behind[tree.parents[i]] += behind[i]
        total += behind[i] * cells(tree.sizes, separator)
    return total


def pair_table(model: GraphicalModel) -> np.ndarray:
    """Return P(a, b) for the cells of all pairs of different columns, ``(L, L)`` for L cells in all columns.

    Blocks of a column with itself hold nothing of use.
    """
    tree, starts = model.tree, _starts(model.tree.sizes)
    nodes = [_Node(model, i, starts) for i in range(len(tree.cliques))]
    below: list[list[_Message]] = [[] for _ in nodes]
    for i in range(len(nodes) - 1, -1, -1):
        below[i] = list(_merged(below[i]))
        if i:
            below[tree.parents[i]].append(nodes[i].upward(below[i]))
    table = np.zeros((starts[-1], starts[-1]))
    for node, messages in zip(nodes, below, strict=True):  # what is written deeper is right and replaces
        node.write(messages, table)
    return table


class _Node:
    """One clique of a model, with the sums of its table that pairs need."""

    def __init__(self, model: GraphicalModel, index: int, starts: np.ndarray) -> None:
        self.sizes, self.clique = model.tree.sizes, model.tree.cliques[index]
        self.belief, self.separator = model.beliefs[index], model.tree.separators[index]
        self.fresh = tuple(c for c in self.clique if c not in self.separator)
        self.starts = starts

    def upward(self, messages: Sequence[_Message]) -> _Message:
        """Return the message of this clique and all below it."""
        own = [self.table(c, self.separator) for c in self.fresh]
        rows = [self.rows(c) for c in self.fresh]
        for message in messages:
            own.append(self.carried(message, self.separator))
            rows.append(message.rows)
        return _Message(self.separator, np.concatenate(rows), np.concatenate(own))

    def write(self, messages: Sequence[_Message], table: np.ndarray) -> None:
        """Fill in the pairs that meet here."""
        for number, one in enumerate(messages):
            mass = summed(self.belief, self.clique, one.separator).reshape(-1)
            _put(table, one.rows, one.rows, _given(one.joint, mass) @ one.joint.T)
            for other in messages[number + 1 :]:
                mass = summed(self.belief, self.clique, other.separator).reshape(-1)
                carried = _given(self.carried(one, other.separator), mass)
                _put(table, one.rows, other.rows, carried @ other.joint.T)
        for c in self.fresh:
            for message in messages:
                _put(table, message.rows, self.rows(c), self.carried(message, (c,)))
            for other in self.fresh:
                if other != c:
                    table[np.ix_(self.rows(c), self.rows(other))] = self.table(c, (other,))

    def rows(self, column: int) -> np.ndarray:
        """Return the places of a column's cells."""
        return np.arange(self.starts[column], self.starts[column + 1])

    def table(self, column: int, columns: Clique) -> np.ndarray:
        """Return P(column, columns) of different columns, ``(cells of column, cells of columns)``."""
        axes = tuple(c for c in self.clique if c == column or c in columns)
        return np.moveaxis(summed(self.belief, self.clique, axes), axes.index(column), 0).reshape(
            self.sizes[column], -1
        )

    def carried(self, message: _Message, target: Clique) -> np.ndarray:
        """Return P(rows, target) for a subset ``target`` of this clique, ``(n, cells of target)``."""
        known = message.separator
        kept = tuple(c for c in known if c in target)
        gone = tuple(c for c in known if c not in target)
        new = tuple(c for c in target if c not in known)
        axes = tuple(c for c in self.clique if c in known or c in target)
        joint = summed(self.belief, self.clique, axes).transpose(
            [axes.index(c) for c in (*kept, *gone, *new)]
        )
        numbers = [cells(self.sizes, part) for part in (kept, gone, new)]
        step = joint.reshape(numbers)
        step = _given(step, step.sum(axis=2, keepdims=True))
        order = [0, *(1 + known.index(c) for c in (*kept, *gone))]
        rows = message.joint.reshape(-1, *shape(self.sizes, known)).transpose(order)
        moved = rows.reshape(-1, *numbers[:2]).transpose(1, 0, 2) @ step
        found = moved.transpose(1, 0, 2).reshape(-1, *shape(self.sizes, (*kept, *new)))
        back = [0, *(1 + (*kept, *new).index(c) for c in target)]
        return found.transpose(back).reshape(len(message.rows), -1)


def _merged(messages: Iterable[_Message]) -> Iterator[_Message]:
    """Yield one message a separator: their rows stacked."""
    groups: dict[Clique, list[_Message]] = {}
    for message in messages:
        groups.setdefault(message.separator, []).append(message)
    for separator, group in groups.items():
        rows = np.concatenate([message.rows for message in group])
        yield _Message(separator, rows, np.concatenate([message.joint for message in group]))


def _given(joint: np.ndarray, mass: np.ndarray) -> np.ndarray:
    return np.divide(joint, mass, out=np.zeros_like(joint), where=mass > 0)


def _put(table: np.ndarray, rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> None:
    table[np.ix_(rows, columns)] = values
    table[np.ix_(columns, rows)] = values.T


def _starts(sizes: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *sizes])
