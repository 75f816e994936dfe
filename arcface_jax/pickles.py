"""A guard for the unpicklers of strangers' files, whatever else they allow."""

import pickle
import pickletools
from typing import IO


def check_memo_numbers(pickled: IO[bytes] | bytes, size: int) -> None:
    """Refuses numbers that would make an unpickler allocate far more than the file's size.

    Walking over the operations runs none of them; a file is left after the pickle's end.

    Args:
      pickled: where the pickle begins.
      size: bytes of the file.

    Raises:
      UnpicklingError: an object is to be remembered under a number larger than that.
    """
    for operation, argument, _ in pickletools.genops(pickled):
        if "PUT" in operation.name and isinstance(argument, int) and argument > size:
            raise pickle.UnpicklingError("it asks for more memory than the file could fill")
