"""Modules of the user's own, imported by the names that flags give them."""

import importlib
from types import ModuleType

from acktr_tf.errors import UserError


def import_module(name: str, named_by: str) -> ModuleType:
    """Imports a module.

    Args:
      name: Name of the module, such as `package.module`.
      named_by: Flag that names it, for the message, such as `--algorithm=a:B`.

    Returns:
      The module.

    Raises:
      UserError: There is none of that name. An error within the module is its own.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UserError(
            f"`{named_by}` names the module {name}, which is not found. Python looks "
            "it up in the working directory and among the installed packages."
        ) from error
