"""What PyInstaller cannot see of `import edgecolbert.cli`: commands are imported by their names."""

from edgecolbert.cli import COMMANDS

hiddenimports = [f"edgecolbert.commands.{name}" for name in COMMANDS]
