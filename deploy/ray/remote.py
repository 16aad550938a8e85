"""List folders on any filesystem of pyarrow, and account for what is not listed, as app/bulk/listing.py does."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pyarrow import fs

from app.bulk.entries import ListedFile
from app.bulk.listing import HIDDEN, Suffixes
from app.settings import ImageFormat

NOT_FILES = {
    fs.FileType.NotFound: "a link to something that does not exist, or deleted",
    fs.FileType.Unknown: "not a file",
}


class RemoteSearch:
    """Iterates over the files below some folders, in the same order each time.

    Args:
        filesystem: where the folders are.
        folders: their paths.
        formats: formats whose suffixes are taken.
    """

    def __init__(self, filesystem: fs.FileSystem, folders: Sequence[str], formats: Sequence[ImageFormat]) -> None:
        self._filesystem, self._folders, self._suffixes = filesystem, folders, Suffixes(formats)
        self.met = 0
        """Entries met so far, but the folders walked."""
        self.passed_over: Counter[str] = Counter()
        """How many of them were not listed, by the reason. A hidden folder counts as one."""

    def __iter__(self) -> Iterator[ListedFile]:
        """Yield every file, and count anew. Raises OSError for a folder of the constructor that cannot be read."""
        self.met, self.passed_over = 0, Counter()
        for folder in self._folders:
            yield from self._walk(folder)

    def _walk(self, root: str) -> Iterator[ListedFile]:
        """Yield files, then those of subfolders, each in alphabetical order, as on one machine.

        Memory holds the names of one folder at a time.
        """
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            try:
                infos = self._filesystem.get_file_info(fs.FileSelector(folder))
            except OSError as error:
                if folder == root:
                    raise
                self.met += 1
                yield ListedFile(folder, None, problem=f"the folder cannot be read: {error}")
                continue
            infos.sort(key=lambda info: info.base_name)
            folders = [info for info in infos if info.type == fs.FileType.Directory]
            for info in infos:
                if info.type != fs.FileType.Directory:
                    yield from self._entry(info)
            for info in reversed(folders):
                if info.base_name.startswith("."):
                    self._pass_over(HIDDEN)
                else:
                    waiting.append(info.path)
            del infos, folders

    def _entry(self, info: fs.FileInfo) -> Iterator[ListedFile]:
        reason = self._suffixes.reason(info.base_name)
        if reason is not None:
            self._pass_over(reason)
            return
        self.met += 1
        problem = NOT_FILES.get(info.type)
        yield ListedFile(info.path, None if problem else info.size, problem=problem)

    def _pass_over(self, reason: str) -> None:
        self.met += 1
        self.passed_over[reason] += 1
