"""What the dictionary transforms share: an array transform applied to every key."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

from monai.config import KeysCollection
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils.enums import TransformBackends

# Tensors and NumPy arrays come in; tensors go out.
BACKENDS = [TransformBackends.TORCH, TransformBackends.NUMPY]


class SingleKeyTransform(MapTransform):
    """A dictionary transform of one key.

    Raises:
        ValueError: several keys.
    """

    backend = BACKENDS

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"{type(self).__name__} takes one key, not {', '.join(map(str, self.keys))}")


class DictionaryTransform(MapTransform):
    """The dictionary version of an array transform: ``class BrainWindowd(DictionaryTransform, array=BrainWindow)``.

    Takes ``keys``, then what the array transform takes, then ``allow_missing_keys``.

    Attributes:
        array: the array transform, (value, companions...) -> value.
        companions: options that name further keys, with their defaults (``...``: required); the array transform gets
            their values after the value of the key, None for an option of None.
        per_key: options that may be a list with one value for each key.

    A class may say in which ``order`` its options stand; else companions come first.
    """

    array: ClassVar[Callable[..., Any]]
    companions: ClassVar[Mapping[str, Any]]
    per_key: ClassVar[Sequence[str]]
    taken: ClassVar[inspect.Signature]
    backend = BACKENDS

    def __init_subclass__(
        cls,
        array: Callable[..., Any] | None = None,
        companions: Mapping[str, Any] | None = None,
        per_key: Sequence[str] = (),
        order: Sequence[str] = (),
        **more: Any,
    ) -> None:
        super().__init_subclass__(**more)
        if array is None:
            if "__init__" in vars(cls):  # takes what it says, not what its base class takes
                own_signature = inspect.signature(vars(cls)["__init__"])
                cls.__signature__ = own_signature.replace(parameters=[*own_signature.parameters.values()][1:])  # type: ignore[attr-defined]
            return
        cls.array, cls.companions, cls.per_key = staticmethod(array), companions or {}, per_key
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        own = [
            inspect.Parameter(name, kind, default=inspect.Parameter.empty if default is ... else default)
            for name, default in cls.companions.items()
        ]
        options = list(inspect.signature(array).parameters.values())
        last = [options.pop()] if options and options[-1].kind is inspect.Parameter.VAR_KEYWORD else []
        head = sorted([*own, *options], key=lambda p: p.default is not inspect.Parameter.empty)  # required ones first
        head.sort(key=lambda p: order.index(p.name) if p.name in order else len(order))
        missing = inspect.Parameter("allow_missing_keys", kind, default=False)
        # For help(), and for whatever checks a config before it runs.
        cls.taken = inspect.Signature([inspect.Parameter("keys", kind), *head, missing, *last])
        cls.__signature__ = cls.taken  # type: ignore[attr-defined]
        cls.__doc__ = cls.__doc__ or f"Dictionary version of :class:`{array.__name__}`."

    def __init__(self, *args: Any, **options: Any) -> None:
        signature = self.taken
        try:
            given = dict(signature.bind(*args, **options).arguments)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        super().__init__(given.pop("keys"), given.pop("allow_missing_keys", False))
        for parameter in signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given |= given.pop(parameter.name, {})
        self.companion_keys = {name: given.pop(name, default) for name, default in self.companions.items()}
        lists = {n: given.pop(n) for n in self.per_key if isinstance(given.get(n), list | tuple)}
        for name, values in lists.items():
            if len(values) != len(self.keys):
                raise ValueError(f"{len(self.keys)} keys but {len(values)} values of {name}")
        self.transforms = [
            self.array(**given, **{name: values[place] for name, values in lists.items()})
            for place in range(len(self.keys) if lists else 1)
        ]

    @property
    def transform(self) -> Any:
        """The array transform (of the first key, where keys differ)."""
        return self.transforms[0]

    def of_key(self, key: Hashable) -> Any:
        """The array transform of a key."""
        return self.transforms[self.keys.index(key) if len(self.transforms) > 1 else 0]

    def described(self) -> dict[str, Any]:
        """For :func:`ichseg.provenance.describe`."""
        return {"keys": self.keys, **self.companion_keys, "array": self.transforms}

    def companion_values(self, item: Mapping[Hashable, Any]) -> list[Any]:
        """The values of the companion keys.

        Raises:
            KeyError: the item lacks one.
        """
        if not getattr(self.transform, "enabled", True):
            return [None] * len(self.companion_keys)
        for name, key in self.companion_keys.items():
            if key is not None and key not in item:
                raise KeyError(f"{type(self).__name__}: {name} '{key}' is not in the data")
        return [None if key is None else item[key] for key in self.companion_keys.values()]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        values: list[Any] | None = None
        for key in self.key_iterator(item):
            if values is None:  # not before: there may be nothing to do
                values = self.companion_values(item)
            item[key] = self.of_key(key)(item[key], *values)
        return item


class InvertibleDictionaryTransform(DictionaryTransform, InvertibleTransform):
    """The same over an array transform with an ``inverse``."""

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.of_key(key).inverse(item[key])
        return item
