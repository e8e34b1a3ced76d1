"""The tars of ILSVRC-2012, and those within one: what they hold, and what to say of a bad one."""

import os
import tarfile
from collections.abc import Iterator
from typing import IO, cast

from alexnet_jax.errors import UserError

OFFICIAL_BYTES = {
    "ILSVRC2012_img_train.tar": 147_897_477_120,
    "ILSVRC2012_img_val.tar": 6_744_924_160,
}
TRAIN, VALIDATION = OFFICIAL_BYTES
DOWNLOAD = "https://image-net.org/download-images"


class Tar:
    """A tar that may lie within another: a stretch of a file, which `tarfile` reads as a file."""

    def __init__(self, path: str, file: int, start: int, size: int, inner: str = ""):
        self._path = path
        self._file = file  # the descriptor
        self._start = start
        self._size = size
        self._inner = inner  # its name within `path`
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._position = position

    def read(self, size: int) -> bytes:
        size = max(0, min(size, self._size - self._position))
        content = os.pread(self._file, size, self._start + self._position)
        self._position += len(content)
        return content

    def members(self) -> Iterator[tuple[str, int, int]]:
        """The name, offset in the file and size of every member, from front to end.

        Raises:
            UserError: if the tar is cut off, or a member is empty or no plain file.
        """
        end = 0
        try:
            with tarfile.open(fileobj=cast(IO[bytes], self), mode="r:") as reader:
                for member in reader:
                    if not member.isreg() or member.issparse():
                        raise self.refusal(f"its member {member.name} is no plain file")
                    if not member.size:
                        raise self.refusal(f"its member {member.name} is empty")
                    if member.offset_data + member.size > self._size:
                        raise self.refusal(f"it is cut off within {member.name}")
                    end = member.offset_data + -(-member.size // 512) * 512  # in whole blocks
                    yield member.name, self._start + member.offset_data, member.size
            self.seek(end)
            if self.read(512).strip(b"\0"):  # tarfile ends at a damaged header as if it were none
                raise self.refusal(f"its header at byte {self._start + end:,} is damaged")
        except (tarfile.TarError, OSError) as error:
            raise self.refusal(f"it cannot be read as a tar ({error})") from error

    def refusal(self, what: str) -> UserError:
        """What is wrong with it, and the way out."""
        file = os.path.basename(self._path)
        return UserError(
            f"{self._path}{self._inner and ': ' + self._inner} is not the one of ILSVRC-2012: "
            f"{what}. The official {file} has {OFFICIAL_BYTES[file]:,} bytes, this one "
            f"{os.path.getsize(self._path):,}: download it again from {DOWNLOAD}, or extract what "
            "you have and give it as folder:DIR"
        )
