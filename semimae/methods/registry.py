"""From options to the code that reads them; a method's file is imported when it is asked for."""

from pkgutil import resolve_name

from semimae.methods.base import Method
from semimae.options.method_base import MethodOptions


def build_method(options: MethodOptions, num_classes: int, num_unlabeled: int) -> Method:
    """Return the method that ``options`` belong to, with fresh state.

    Args:
        options: What it reads of params.yaml.
        num_classes: Number of classes.
        num_unlabeled: Number of unlabeled images, for methods that remember each.
    """
    method: Method = resolve_name(options.implementation)(options, num_classes, num_unlabeled)
    return method
