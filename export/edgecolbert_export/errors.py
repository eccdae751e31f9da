"""The errors that only the export raises; everything else is in `edgecolbert.errors`.

```
ModelError
└── VerificationError    the exported model does not do what the reference does
InputError
└── OutputExistsError    something is where the model folder should go   (also FileExistsError)
```
"""

from __future__ import annotations

from edgecolbert.errors import InputError, ModelError


class VerificationError(ModelError):
    """The exported model differs from the reference by more than the tolerances allow."""


class OutputExistsError(InputError, FileExistsError):
    """Something is where the model folder should go."""
