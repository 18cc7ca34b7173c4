"""Counts of a run and what they say, for the table, JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalablevit_ref.config import ScalableViTConfig, variant
from scalablevit_ref.cost import PUBLISHED
from scalablevit_ref.evaluation.statistics import mcnemar, wilson

TOP = 5
"""Classes of an image that are kept."""


@dataclass(frozen=True)
class Counted:
    """One network's counts.

    Attributes
    ----------
    name
        What was run.
    config
        None where it is not known.
    labels
        Of the images that could be read: n.
    top
        Classes of the largest logits, the largest first: n 5, or as many as there are; −1 where the logits hold a NaN.

    Examples
    --------
    >>> labels = np.array([0, 1, 1, 1])
    >>> top = np.array([[0, 1], [1, 0], [1, 0], [0, 1]])
    >>> found = Counted("mine", None, labels, top)
    >>> found.document()["top1"]["correct"], found.other_order()
    (3, None)
    >>> found.variant(), found.published()
    (None, None)
    >>> names = {0: "cat", 1: "dog"}
    >>> print(found.by_class(names), end="")
    class,name,images,top1,top5,top1_percent,low,high
    0,cat,1,1,1,100.00,20.65,100.00
    1,dog,3,2,3,66.67,20.77,93.85
    >>> print(found.confusions(names), end="")
    class,name,taken_for,its_name,images
    1,dog,0,cat,1
    """

    name: str
    config: ScalableViTConfig | None
    labels: np.ndarray
    top: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Whether the largest logit is the image's class: n."""
        right: np.ndarray = self.top[:, 0] == self.labels
        return right

    @property
    def among(self) -> np.ndarray:
        """Whether the image's class is among the five largest logits: n."""
        among: np.ndarray = (self.top == self.labels[:, None]).any(axis=1)
        return among

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = {"network": self.name}
        for key, hits in (("top1", self.right), ("top5", self.among)):
            low, high = wilson(int(hits.sum()), len(hits))
            found[key] = {"correct": int(hits.sum()), "percent": _percent(hits), "low": 100 * low, "high": 100 * high}
        found["top1_in_another_order_percent"] = None if (other := self.other_order()) is None else 100 * other
        found["images_with_nan"] = int((self.top[:, 0] < 0).sum())
        return found | ({} if self.config is None else {"published": self.published(), "ssa_values": self.config.ssa_values})

    def other_order(self) -> float | None:
        """The share that would be right if the data set numbered its classes otherwise; None where its numbers fit the answers.

        Each class is taken for the one that the network answers most often to its images. Where that would more than double what
        is right, and be most of it, the order of the classes is wrong, and not the network.
        """
        answers = {int(c): np.bincount(self.top[self.labels == c, 0].clip(0)).max() for c in np.unique(self.labels)}
        possible = float(sum(answers.values()) / max(1, len(self.labels)))
        return possible if possible > 0.5 and possible > 2 * self.right.mean() else None

    def published(self) -> dict[str, Any] | None:
        """The published figure of the variant that this is, and whether it lies in the interval; None of a network without one."""
        name = self.variant()
        if name is None:
            return None
        low, high = wilson(int(self.right.sum()), len(self.right))
        figure = PUBLISHED[name].top1
        rounding = 0.05
        return {"variant": name, "top1_percent": figure, "inside": 100 * low - rounding <= figure <= 100 * high + rounding}

    def variant(self) -> str | None:
        """The published variant whose settings these are; SSA's version, which the table leaves open, may be either."""
        if self.config is None:
            return None
        for name in PUBLISHED:
            if self.config in (variant(name), variant(name, ssa_values="scaled")):
                return name
        return None

    def by_class(self, names: Mapping[int, str]) -> str:
        """CSV, a line a class of which there are images."""
        rows: list[list[Any]] = []
        for number in np.unique(self.labels):
            of = self.labels == number
            hits, among = int(self.right[of].sum()), int(self.among[of].sum())
            low, high = wilson(hits, int(of.sum()))
            row = [number, names.get(int(number), ""), int(of.sum()), hits, among]
            rows.append([*row, *(f"{100 * x:.2f}" for x in (hits / of.sum(), low, high))])
        return _csv(["class", "name", "images", "top1", "top5", "top1_percent", "low", "high"], rows)

    def confusions(self, names: Mapping[int, str]) -> str:
        """CSV of the mistakes, the most frequent first: which class was taken for which, and how often."""
        wrong = ~self.right
        pairs, counts = np.unique(np.stack([self.labels[wrong], self.top[wrong, 0]], axis=1), axis=0, return_counts=True)
        order = sorted(range(len(counts)), key=lambda i: (-counts[i], *pairs[i]))
        rows = [[x for c in pairs[i] for x in (c, names.get(int(c), ""))] + [counts[i]] for i in order]
        return _csv(["class", "name", "taken_for", "its_name", "images"], rows)


def against(first: Counted, second: Counted) -> dict[str, Any]:
    """How two networks' answers to the same images differ.

    Examples
    --------
    >>> labels, top = np.array([0, 1, 1]), np.array([[0], [0], [1]])
    >>> one, two = (Counted(name, None, labels, top) for name in ("one", "two"))
    >>> against(one, two)["same_class"]["images"], against(one, two)["wrong_to_right"]
    (3, 0)
    """
    gained, lost = int((~first.right & second.right).sum()), int((first.right & ~second.right).sum())
    same = int((first.top[:, 0] == second.top[:, 0]).sum())
    low, high = wilson(same, len(first.labels))
    return {
        "network": second.name,
        "same_class": {"images": same, "percent": 100 * same / max(1, len(first.labels)), "low": 100 * low, "high": 100 * high},
        "wrong_to_right": gained,
        "right_to_wrong": lost,
        "top1_change_percent": 100 * (gained - lost) / max(1, len(first.labels)),
        "mcnemar_p": mcnemar(gained, lost),
    }


def _percent(hits: np.ndarray) -> float:
    return float(100 * hits.mean()) if len(hits) else float("nan")


def _csv(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows(rows)
    return text.getvalue()
