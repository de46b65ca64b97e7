"""How class names are read, by datasets and vocabularies alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from score.errors import ConfigError


def normalise(name: str) -> str:
    """How a class name is read: lower case, ``_`` and ``-`` as blanks, single blanks."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def synonyms(name: str) -> list[str]:
    """The comma-separated synonyms of a class name, normalised, empty ones left out."""
    return [word for word in map(normalise, name.split(",")) if word]


def is_seen(name: str, train_names: Iterable[str]) -> bool:
    """Whether a class, or one of its synonyms, is one of the training vocabulary's."""
    known = {word for other in train_names for word in synonyms(other)}
    return not known.isdisjoint(synonyms(name))


def positions(classes: Sequence[str], names: Sequence[str], dataset: str) -> list[int]:
    """Where each class of a dataset stands in a vocabulary, alone or as one of a name's synonyms.

    Raises:
        ConfigError: one is not in it.
    """
    where = {synonym: index for index, name in enumerate(names) for synonym in synonyms(name)}
    missing = [name for name in classes if where.keys().isdisjoint(synonyms(name))]
    if missing:
        raise ConfigError(f"the vocabulary lacks {', '.join(missing)} of {dataset}; add them to score this dataset")
    return [next(where[word] for word in synonyms(name) if word in where) for name in classes]


def check(names: Sequence[str], where: str = "the vocabulary") -> list[str]:
    """Return class names as a list.

    Args:
        names: the classes, synonyms separated by commas.
        where: what states them, for messages.

    Raises:
        ConfigError: there are none, one is empty, or two say the same word.
    """
    if found := faults(names, where):
        raise ConfigError(found[0])
    return [str(name) for name in names]


def faults(names: Sequence[str], where: str) -> list[str]:
    """All that is wrong with class names, as :func:`check` has it."""
    if not names:
        return [
            f"empty vocabulary: no class name in {where}, name at least one, as in vocabulary=[ship,'storage tank']"
        ]
    found, first = [], dict[str, str]()
    for name in names:
        words = synonyms(str(name))
        if not words:
            found.append(f"empty class name in {where}: {list(names)}, remove it or name it")
        if again := next((word for word in words if word in first), None):
            found.append(
                f"duplicate class name in {where}: '{again}' ({first[again]}; {name}), keep one of them"
                + (" (a comma separates synonyms)" if "," in f"{first[again]}{name}" else "")
            )
        first.update(dict.fromkeys(words, str(name)))
    return found


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names in quotes, the first few of many."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"'{name}'" for name in names[:most]) + rest
