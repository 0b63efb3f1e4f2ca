"""Reverse channel coding: sends a sample of one distribution as the index of a shared candidate.

Sender and receiver can draw the same candidates from p, a standard normal distribution. The sender
chooses one that is distributed like q, a normal distribution of unit variance and other means, and
writes its number. On average that costs little more than the Kullback-Leibler divergence (KL) of q
from p: Theis et al. 2022 (https://arxiv.org/abs/2206.08889). The values are split into chunks of a
few bits of KL, each with its own number. `codec.py` sends images with it.
"""

import bisect
import itertools
import math
import statistics

import numpy as np

CHUNK_BITS = 7  # KL per number: more makes files shorter, but needs more candidates
CANDIDATES = 2**12  # for each half of a chunk; samples from too few candidates stay too close to p
AT_ONCE = 128  # candidates that are compared together; bounds the memory
# Frequencies of numbers with 1, 2, ... binary digits: Zipf's law with the exponent 1.2.
DIGITS_WEIGHTS = [round(1000 * 2 ** (-0.2 * digits)) for digits in range(26)]
BINARY_WEIGHTS = [1, 1]
QUANTILES = np.array(
    [statistics.NormalDist().inv_cdf((i + 0.5) / 2**16) for i in range(2**16)], "float32"
)


def divergence(means: np.ndarray) -> float:
    """KL of a normal distribution of unit variance from the standard one, in bits."""
    return float(np.sum(np.square(means, dtype="float64"))) / 2 / math.log(2)


def number_of_chunks(bits: float) -> int:
    """The number of chunks for a KL."""
    return max(1, round(bits / CHUNK_BITS))


# Shared randomness: raw words of Philox. NumPy's distributions may change between versions.


def candidates(step: int, half: int, size: int, first: int, count: int = 1) -> np.ndarray:
    """Candidates (count, size) for half a chunk, from number `first` on."""
    blocks = -(-size // 16)  # of 256 random bits, for 16 values
    random = np.random.Philox(key=[step, half], counter=first * blocks)
    words = random.random_raw(4 * blocks * count).astype("<u8")
    return QUANTILES.take(words.view("<u2").reshape(count, -1)[:, :size], mode="clip")


def halves_of_chunks(step: int, size: int, chunks: int) -> list[np.ndarray]:
    """The positions of each half's values, shuffled so that all halves have about the same KL."""
    order = np.argsort(np.random.Philox(key=[step, 2**32]).random_raw(size), kind="stable")
    return [half for chunk in np.array_split(order, chunks) for half in np.array_split(chunk, 2)]


def chosen_values(step: int, size: int, numbers: list[int]) -> np.ndarray:
    """The values (size,) encoded by the numbers of the chunks, float32."""
    values, firsts = np.empty(size, "float32"), []
    for number in numbers:
        # Pairs of halves are numbered along diagonals, so that neighbours have no half in common.
        diagonal, first = divmod(number, CANDIDATES)
        firsts += [first, (first + diagonal) % CANDIDATES]
    for half, places in enumerate(halves_of_chunks(step, size, len(numbers))):
        values[places] = candidates(step, half, len(places), firsts[half])[0]
    return values


def choose_numbers(
    step: int, means: np.ndarray, chunks: int, random: np.random.Generator
) -> list[int]:
    """A number for each chunk, so that `chosen_values` is distributed normally around `means`.

    Args:
        step: any number; the candidates of two steps are independent.
        means: (size,), means of q.
        random: random generator of the sender.
    """
    scores = [
        np.concatenate(
            [
                candidates(step, half, len(places), first, AT_ONCE) @ means[places]
                for first in range(0, CANDIDATES, AT_ONCE)
            ]
        )
        for half, places in enumerate(halves_of_chunks(step, means.size, chunks))
    ]
    return [choose(*pair, random) for pair in zip(scores[::2], scores[1::2], strict=True)]


def choose(first_scores: np.ndarray, second_scores: np.ndarray, random: np.random.Generator) -> int:
    """Chooses a pair by the Poisson functional representation: smallest arrival time over q / p.

    Li and El Gamal 2018 (https://arxiv.org/abs/1701.02827). The ratio q / p of a pair is a product,
    so choosing a pair has the small bias of two small choices and the bit cost of one large choice.

    Args:
        first_scores, second_scores: log(q / p) of each half's candidates, up to a constant.
    """
    # In float64, whose range no score exceeds.
    first, second = (np.exp(-x.astype("float64")) for x in (first_scores, second_scores))
    smallest, second = first.min() * second.min(), np.tile(second, 2)
    arrival, least, number = 0.0, math.inf, 0
    for diagonal in range(CANDIDATES):
        arrivals = arrival + np.cumsum(random.standard_exponential(CANDIDATES))
        quotients = arrivals * first * second[diagonal : diagonal + CANDIDATES]
        nearest, arrival = int(quotients.argmin()), arrivals[-1]
        if quotients[nearest] < least:
            least, number = quotients[nearest], diagonal * CANDIDATES + nearest
        if arrival * smallest > least:
            break  # no later pair can win
    return number


# Arithmetic coding in integers, so that files are portable between machines.


class Writer:
    """Encodes symbols as bytes, in about -log2 of each symbol's share of the weights."""

    def __init__(self) -> None:
        self.low, self.width, self.total = 0, 1, 1  # the interval from low / total on

    def write(self, weights: list[int], index: int) -> None:
        """Adds symbol `index` of an alphabet with these weights."""
        self.low = self.low * sum(weights) + self.width * sum(weights[:index])
        self.width, self.total = self.width * weights[index], self.total * sum(weights)

    def write_number(self, number: int) -> None:
        digits = f"{number + 1:b}"
        self.write(DIGITS_WEIGHTS, len(digits) - 1)
        for digit in digits[1:]:
            self.write(BINARY_WEIGHTS, int(digit))

    def to_bytes(self) -> bytes:
        """The shortest bytes that decode to these symbols, whatever follows them."""
        for length in itertools.count():
            value = -(-self.low * 256**length // self.total)
            if (value + 1) * self.total <= (self.low + self.width) * 256**length:
                return value.to_bytes(length, "big")


class Reader:
    """Decodes the bytes of a `Writer`, or the start of them."""

    def __init__(self, data: bytes) -> None:
        self.low, self.width, self.total = int.from_bytes(data, "big"), 1, 256 ** len(data)

    def read(self, weights: list[int]) -> int:
        """The next symbol; raises EOFError if the bytes do not determine it."""
        sums = list(itertools.accumulate(weights, initial=0))
        index = bisect.bisect_right(sums, self.low * sums[-1] // self.total) - 1
        self.low = self.low * sums[-1] - self.total * sums[index]
        self.width, self.total = self.width * sums[-1], self.total * weights[index]
        if self.low + self.width > self.total:
            raise EOFError
        return index

    def read_number(self) -> int:
        digits = [str(self.read(BINARY_WEIGHTS)) for _ in range(self.read(DIGITS_WEIGHTS))]
        return int("1" + "".join(digits), 2) - 1
