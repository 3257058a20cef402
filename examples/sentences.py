"""Short sentences, and pairs of them that share most of their words."""

import collections
import dataclasses
import re
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

import datasets

FILE = "tatoeba_english.txt"
PAD, END, UNKNOWN = 0, 1, 2
SPECIAL = ("<pad>", "<end>", "<unknown>")


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of a prototype and a sentence, as word numbers, padded with 0.

    Args:
        source: Prototypes, shape `(n, steps)`.
        target: Sentences with an end symbol.
        before: The word before each word of the target.
        inserted: Words of the target that the prototype lacks.
        deleted: Words of the prototype that the target lacks.
    """

    source: np.ndarray
    target: np.ndarray
    before: np.ndarray
    inserted: np.ndarray
    deleted: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """1 for words and the end symbol, 0 after it."""
        return (self.target != PAD).astype("float32")


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Sentences as lists of words, and the vocabulary.

    Args:
        lines: The sentences, whose words are all in the vocabulary.
        words: The vocabulary; its first three entries are symbols, not words.
    """

    lines: list[list[str]]
    words: list[str]

    @property
    def steps(self) -> int:
        """Length of the longest sentence, its end included."""
        return max(map(len, self.lines)) + 1

    def few(self, count: int) -> "Corpus":
        """Some of the sentences, with the whole vocabulary."""
        step = max(len(self.lines) // count, 1)
        return Corpus(self.lines[::step][:count], self.words)

    def pairs(self, seed: int, per_sentence: int = 10) -> tuple[Pairs, Pairs, Pairs]:
        """Pairs of lexical neighbours: word Jaccard distance at most 1/2, not 0.

        A tenth of the sentences are validation targets, a tenth test targets; all
        prototypes are training sentences.

        Args:
            seed: Seed of the split, and of the choice among many neighbours.
            per_sentence: Maximum number of prototypes for a sentence.

        Returns:
            Pairs for training, validation and test.
        """
        rng = np.random.default_rng(seed)
        count = len(self.lines)
        part = np.zeros(count, int)
        order = rng.permutation(count)
        part[order[: count // 10]] = 2
        part[order[count // 10 : count // 5]] = 1
        vectorizer = CountVectorizer(binary=True, analyzer=lambda line: line)
        bags = vectorizer.fit_transform(self.lines).astype("int32")
        prototypes = np.flatnonzero(part == 0)
        size = np.asarray(bags.sum(axis=1)).ravel()
        found: list[list[tuple[int, int]]] = [[], [], []]
        for target in range(count):
            shared = (bags[target] @ bags[prototypes].T).toarray().ravel()
            union = size[target] + size[prototypes] - shared
            near = prototypes[(2 * shared >= union) & (shared < union)]
            if len(near) > per_sentence:
                near = rng.choice(near, per_sentence, replace=False)
            found[part[target]] += [(int(source), target) for source in near]
        return tuple(self._numbered(pairs) for pairs in found)  # type: ignore[return-value]

    def text(self, numbers: Any) -> str:
        """The words with these numbers."""
        return " ".join(self.words[n] for n in numbers if n not in (PAD, END))

    def write(self, decoder: Any, source: np.ndarray, z: np.ndarray) -> list[str]:
        """Writes sentences greedily, always with the most likely next word.

        Args:
            decoder: From prototypes, words before and z to a distribution over words.
            source: Prototypes.
            z: Edit vectors.

        Returns:
            The sentences.
        """
        before = np.zeros_like(source)
        written = np.zeros_like(source)
        ended = np.zeros(len(source), bool)
        for step in range(self.steps):
            words = decoder([source, before, z])
            word = np.asarray(words.mode())[:, step].astype("int32")
            written[:, step] = np.where(ended, PAD, word)
            ended |= word == END
            if step + 1 < self.steps:
                before[:, step + 1] = written[:, step]
        return [self.text(line) for line in written]

    def _numbered(self, pairs: list[tuple[int, int]]) -> Pairs:
        index = {word: number for number, word in enumerate(self.words)}

        def numbers(words: Any) -> list[int]:
            return [index[word] for word in words]

        def padded(rows: list[list[int]]) -> np.ndarray:
            array = np.zeros((len(rows), self.steps), "int32")
            for i, row in enumerate(rows):
                array[i, : len(row)] = row
            return array

        lines = [(self.lines[a], self.lines[b]) for a, b in pairs]
        target = padded([[*numbers(b), END] for _, b in lines])
        return Pairs(
            source=padded([numbers(a) for a, _ in lines]),
            target=target,
            before=np.pad(target[:, :-1], [(0, 0), (1, 0)]),
            inserted=padded([numbers(w for w in b if w not in a) for a, b in lines]),
            deleted=padded([numbers(w for w in a if w not in b) for a, b in lines]),
        )


def load(data_dir: datasets.Path | None = None, least: int = 2) -> Corpus:
    """Reads the sentences.

    Args:
        data_dir: Directory of the file, by default the environment variable
            `TFP_VAE_DATA`.
        least: How often a word must occur to be in the vocabulary.

    Returns:
        The corpus.

    Raises:
        FileNotFoundError: If the file is missing.
    """
    path = datasets.find(
        FILE,
        data_dir,
        "sentences",
        "Put one English sentence on a line, such as those of tatoeba.org "
        "(CC BY 2.0 FR).",
    )
    lines = path.read_text(encoding="utf-8").lower().splitlines()
    split = [re.findall(r"[a-z0-9']+|[.,!?]", line) for line in lines]
    counts = collections.Counter(word for words in split for word in words)
    known = sorted(word for word, count in counts.items() if count >= least)
    numbered = {*known}
    # Without duplicates, so no test sentence is also a training sentence.
    seen = dict.fromkeys(
        tuple(word if word in numbered else SPECIAL[UNKNOWN] for word in words)
        for words in split
        if words
    )
    return Corpus([list(words) for words in seen], [*SPECIAL, *known])
