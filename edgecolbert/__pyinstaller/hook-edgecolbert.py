"""What PyInstaller cannot see of `import edgecolbert`: names that are imported when they are used, and models."""

from pathlib import Path

from PyInstaller.utils.hooks import collect_data_files, copy_metadata

import edgecolbert
from edgecolbert.builtin import builtin_models

hiddenimports = sorted({f"edgecolbert.{home}" for home in edgecolbert._HOMES.values()})

# What only `eval` of collections of the hub needs; pandas would come along where they are installed.
excludedimports = ["ir_measures", "pyarrow"]

# Models, recipes, and whatever else lies in the package.
datas = collect_data_files("edgecolbert")
_collected = {Path(source) for source, _ in datas}
for _name, _folder in builtin_models().items():
    # In a checkout models lie beside the package, with the programs that train them in folders of their own.
    datas += [
        (str(path), f"edgecolbert/models/{_name}")
        for path in sorted(_folder.iterdir())
        if path.is_file() and path not in _collected
    ]

# Versions are asked for before onnxruntime is imported (known_failures.py), and by `doctor`.
for _package in ("numpy", "onnxruntime", "tokenizers", "usearch", "numkong", "sqlite-utils"):
    datas += copy_metadata(_package)
