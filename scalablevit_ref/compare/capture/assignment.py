"""The best way to put things in places, each in one."""

from __future__ import annotations

import numpy as np


def assigned(scores: np.ndarray) -> list[tuple[int, int]]:
    """The pairs, row and column, whose scores sum to the most; as many as the shorter side has (Kuhn and Munkres).

    Examples
    --------
    >>> assigned(np.array([[3.0, 2.0], [2.0, 0.0]]))
    [(0, 1), (1, 0)]
    """
    scores = np.asarray(scores, float)
    if not scores.size:
        return []
    if scores.shape[0] > scores.shape[1]:
        return sorted((i, j) for j, i in assigned(scores.T))
    cost = scores.max() - scores
    rows, columns = cost.shape
    u, v = np.zeros(rows + 1), np.zeros(columns + 1)
    owner, way = np.zeros(columns + 1, int), np.zeros(columns + 1, int)  # 0 stands for none: rows and columns count from 1
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        least, done = np.full(columns + 1, np.inf), np.zeros(columns + 1, bool)
        while owner[column]:
            done[column] = True
            at = owner[column]
            slack = cost[at - 1] - u[at] - v[1:]
            better = ~done[1:] & (slack < least[1:])
            least[1:][better], way[1:][better] = slack[better], column
            nearest = int(np.argmin(np.where(done[1:], np.inf, least[1:]))) + 1
            delta = least[nearest]
            u[owner[done]] += delta
            v[done] -= delta
            least[~done] -= delta
            column = nearest
        while column:
            before = way[column]
            owner[column], column = owner[before], before
    return sorted((int(owner[j]) - 1, j - 1) for j in range(1, columns + 1) if owner[j])


def aligned(scores: np.ndarray) -> list[tuple[int, int]]:
    """Pairs, row and column, that follow each other in both and whose scores, positive ones only, sum to the most."""
    rows, columns = scores.shape
    best = np.zeros((rows + 1, columns + 1))
    for i in range(rows):
        taken = np.where(scores[i] > 0, best[i, :-1] + scores[i], 0)
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], taken))
    pairs, i, j = [], rows, columns
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]
