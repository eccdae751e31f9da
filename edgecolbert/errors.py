"""Every error that edgecolbert raises on purpose.

```
EdgeColbertError
├── ModelError                 a model folder cannot be used
│   ├── ModelNotFoundError     no such folder or built-in name          (also FileNotFoundError)
│   ├── ModelFormatError       the folder's files say something wrong   (also ValueError)
│   └── ModelIntegrityError    a file is missing, cut or changed        (also ValueError)
├── StoreError                 a database cannot be used
│   ├── StoreNotFoundError     no such file                             (also FileNotFoundError)
│   ├── StoreFormatError       not ours, damaged, or from the future    (also ValueError)
│   ├── StoreMismatchError     pinned to another model or setting       (also ValueError)
│   ├── StoreReadOnlyError     a write was asked of a read-only store   (also PermissionError)
│   ├── StoreKeyError          a key is wrong, missing or one too many  (also PermissionError)
│   ├── StoreLockedError       another process holds the write lock     (also TimeoutError)
│   └── StoreClosedError       used after close()                       (also ValueError)
├── InputError                 an argument, document or query is wrong  (also ValueError)
│   └── InputTypeError         ... because of its type                  (also TypeError)
├── MissingExtraError          an optional dependency is not installed  (also ImportError)
├── RuntimeUnusableError       onnxruntime cannot be used on this machine (also ImportError)
└── CancelledError             a progress callback asked to stop
```

A message says what failed, what was expected and found, which file, and what to do.
"""

from __future__ import annotations


class EdgeColbertError(Exception):
    """Base of every error that edgecolbert raises on purpose."""


class ModelError(EdgeColbertError):
    """A model folder cannot be used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """No such model folder or built-in name."""


class ModelFormatError(ModelError, ValueError):
    """A file of the model folder says something that cannot be right."""


class ModelIntegrityError(ModelError, ValueError):
    """A file of the model folder is missing, cut or changed since export."""


class StoreError(EdgeColbertError):
    """A database cannot be used."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """No such database file."""


class StoreFormatError(StoreError, ValueError):
    """The file is not an edgecolbert database, is damaged, or is newer than this version reads."""


class StoreMismatchError(StoreError, ValueError):
    """The database is pinned to another model or setting than the one asked for."""


class StoreReadOnlyError(StoreError, PermissionError):
    """A write was asked of a store that can only be read."""


class StoreKeyError(StoreError, PermissionError):
    """The key of an encrypted database is wrong or missing, or a key was given for one that is not encrypted."""


class StoreLockedError(StoreError, TimeoutError):
    """Another process held the write lock for longer than the time-out."""


class StoreClosedError(StoreError, ValueError):
    """The index was used after it was closed."""


class InputError(EdgeColbertError, ValueError):
    """An argument, a document or a query is wrong."""


class InputTypeError(InputError, TypeError):
    """An argument, a document or a query has the wrong type."""


class MissingExtraError(EdgeColbertError, ImportError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, what: str, package: str, extra: str, otherwise: str = "") -> MissingExtraError:
        """The error that says how to install it.

        Args:
            what: What needs it, at the beginning of a sentence.
            package: The package, as pip calls it.
            extra: The extra that brings it.
            otherwise: What can be done instead, as the end of a sentence.

        Returns:
            The error, to be raised.
        """
        return cls(
            f"{what} needs the package {package}, which is not installed. Install it with: "
            f"pip install 'edgecolbert[{extra}]'{otherwise}."
        )


class RuntimeUnusableError(EdgeColbertError, ImportError):
    """onnxruntime cannot be imported here, or is known to end the process on this machine."""


class RuntimeUnsafeWarning(UserWarning):
    """The installed onnxruntime was reported to fail on processors like this one. Not an error."""


class ModelWarning(UserWarning):
    """A model can be used, but its folder leaves something out or says it wrongly. Not an error."""


class StoreWarning(UserWarning):
    """A database can be used, but not all that is in it, or a file beside it needs a look. Not an error."""


class CancelledError(EdgeColbertError):
    """A progress callback asked to stop; what was acknowledged before stays."""
