"""The version of this library, and what the oldest Python that it runs on lacks."""

import sys

__version__ = "0.2.0"

if sys.version_info >= (3, 11):
    from enum import StrEnum as StrEnum
else:
    from enum import Enum

    class StrEnum(str, Enum):
        """An enumeration whose members are text, as in Python 3.11 and later."""

        __str__ = str.__str__
        __format__ = str.__format__
