"""An order of very many items that needs no list of them."""

from __future__ import annotations

import numpy as np

MAX_SIZE = 1 << 63
ROUNDS = 8
"""Rounds of the network. Four make an order that looks random; small sizes need some more."""
_WORD = (1 << 64) - 1
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
"""Factors of the mixing function of SplitMix64 (Steele, Lea and Flood 2014)."""


class Permutation:
    """A random order of the numbers below ``size``, of which any place is computed by itself.

    It is a Feistel network (Luby and Rackoff 1988) on the numbers of an even count of bits. A
    number that is not below ``size`` goes through the network again ("cycle walking", Black and
    Rogaway 2002). Each of at most four numbers is below ``size``, so a place takes four passes on
    average at most.

    Args:
        size: how many numbers, from 1 to 2**63.
        rng: gives the keys of the network, which determine the order.

    Raises:
        ValueError: ``size`` is out of its range.

    Example:
        >>> order = Permutation(5, np.random.default_rng(0))
        >>> sorted(order.at(place) for place in range(5))
        [0, 1, 2, 3, 4]
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        if not 1 <= size <= MAX_SIZE:
            raise ValueError(f"size is {size:,}: give a number from 1 to {MAX_SIZE:,}")
        self.size = size
        self._half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
        self._keys: list[int] = rng.integers(0, _WORD, ROUNDS, np.uint64, endpoint=True).tolist()

    def at(self, place: int) -> int:
        """The number at a place from 0 to ``size`` - 1."""
        if not 0 <= place < self.size:
            raise IndexError(place)
        number = self._mixed(place)
        while number >= self.size:
            number = self._mixed(number)
        return number

    def _mixed(self, number: int) -> int:
        """Another number of the same bits; no two numbers become the same."""
        bits = self._half_bits
        left, right = number >> bits, number & ((1 << bits) - 1)
        for key in self._keys:
            word = (right ^ key) * _FACTORS[0] & _WORD
            word = (word ^ word >> 31) * _FACTORS[1] & _WORD
            left, right = right, left ^ word >> (64 - bits)
        return left << bits | right
