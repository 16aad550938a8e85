"""Divide a collection into slices and save the progress of a run, on any filesystem that pyarrow supports.

    OUT/run.json                                what determines the answers; a run with other facts is rejected
    OUT/files/00000012.parquet                  the files of slice 12, listed once
    OUT/files/listed.json                       how many there are, and what was passed over; it completes the list
    OUT/rows/thousand=00000/00000012.parquet    its answers, in the format of `vitrine embed`
    OUT/failures/00000012.jsonl                 its failures; the existence of this file completes the slice

The number of a slice determines its files. A slice that is computed twice, by a retry of Ray or by two runs at the same
time, therefore writes the same file twice, and listing one directory shows which slices are done. Ray Data's own
checkpoint keeps the id of every row in the memory of each actor: 8 GB for a billion rows. Here one name covers 4096.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from app.bulk.atomic import CannotWrite
from app.bulk.entries import ListedFile, read_file
from app.bulk.listing import Search
from app.bulk.parts import Unaccounted, check_same_run
from app.bulk.rows import Failure
from app.bulk.tables import Facts, Row, arrow, metadata
from app.settings import ImageFormat
from deploy.ray.remote import RemoteSearch

SLICE_FILES = 4096
"""Files per slice: the most work that the death of an actor can lose, and the rows of one file of the output."""


@dataclass(frozen=True)
class Listed:
    """What the inputs have.

    files: number of files.
    passed_over: how many other entries of the folders there are, by the reason.
    """

    files: int
    passed_over: dict[str, int]

    @property
    def slices(self) -> int:
        """Number of slices."""
        return -(-self.files // SLICE_FILES)

    def files_of(self, number: int) -> int:
        """Return how many files a slice has."""
        return min(SLICE_FILES, self.files - number * SLICE_FILES)


class Slices:
    """The inputs, output and progress of a run. Ray sends a copy to every actor.

    Args:
        inputs: folders, as URIs or paths.
        output: a folder, as a URI or path.

    Raises ValueError for inputs on different filesystems, and for a filesystem that pyarrow does not know.
    """

    def __init__(self, inputs: Sequence[str], output: str) -> None:
        self.inputs = tuple(inputs)
        self._sources = [_locate(folder) for folder in inputs]
        if len({type(source) for source, _ in self._sources}) > 1:
            raise ValueError("the inputs are on different filesystems; start one run per filesystem")
        self._source = self._sources[0][0]
        self._is_local = isinstance(self._source, fs.LocalFileSystem)
        self._out, self._folder = _locate(output)

    def claim(self, facts: Facts) -> None:
        """Use the output for the run with these facts. Raises DifferentRun if it belongs to another."""
        path = f"{self._folder}/run.json"
        if self._exists(path):
            with self._out.open_input_stream(path) as file:
                check_same_run(json.loads(file.readall()), facts, Path(self._folder))
        else:
            self._write(path, json.dumps(facts, indent=1).encode())

    def list_files(self, formats: Sequence[ImageFormat]) -> Listed:
        """List the files, unless an earlier run has. Raises OSError, PathNotFound and Unaccounted."""
        marker = f"{self._folder}/files/listed.json"
        if self._exists(marker):
            with self._out.open_input_stream(marker) as stream:
                return Listed(**json.loads(stream.readall()))
        roots = [root for _, root in self._sources]
        search = Search(roots, formats) if self._is_local else RemoteSearch(self._source, roots, formats)
        files = iter(search)
        count = 0
        while batch := list(islice(files, SLICE_FILES)):
            self._write_files(count // SLICE_FILES, batch)
            count += len(batch)
        listed = Listed(count, dict(search.passed_over))
        if search.met != count + search.passed_over.total():
            known = f"{count} are listed and {search.passed_over.total()} passed over"
            raise Unaccounted(f"{search.met} files and entries of folders were met, but {known}; please report this")
        self._write(marker, json.dumps(asdict(listed)).encode())
        return listed

    def missing(self, listed: Listed) -> list[int]:
        """Return the numbers of the slices that remain."""
        infos = self._out.get_file_info(fs.FileSelector(f"{self._folder}/failures", allow_not_found=True))
        done = {int(info.base_name.partition(".")[0]) for info in infos}
        return [number for number in range(listed.slices) if number not in done]

    def files(self, number: int) -> Iterator[ListedFile]:
        """Yield the files of a slice, in order."""
        table = pq.read_table(f"{self._folder}/files/{number:08d}.parquet", filesystem=self._out, partitioning=None)
        columns = (table[name].to_pylist() for name in ("path", "size", "problem"))
        for path, size, problem in zip(*columns, strict=True):
            yield ListedFile(os.fsdecode(path), size, problem=problem)

    def read(self, path: str, limit: int) -> bytes:
        """Return the first `limit` bytes of a file. Raises OSError."""
        if self._is_local:
            return read_file(path, limit)
        with self._source.open_input_stream(path) as file:
            data: bytes = file.read(limit)
        return data

    def write(self, number: int, rows: Sequence[Row], failures: Sequence[Failure], facts: Facts) -> None:
        """Write a slice: first its answers, then its failures, whose file completes the slice."""
        if len(failures) < len(rows):
            table = arrow(rows)
            sink = pa.BufferOutputStream()
            pq.write_table(
                table.replace_schema_metadata(metadata(facts)), sink, compression="zstd", use_dictionary=False
            )
            path = f"{self._folder}/rows/thousand={number // 1000:05d}/{number:08d}.parquet"
            self._write(path, sink.getvalue())
        lines = "".join(f"{json.dumps(asdict(failure))}\n" for failure in failures)
        self._write(f"{self._folder}/failures/{number:08d}.jsonl", lines.encode())

    def _write_files(self, number: int, files: Sequence[ListedFile]) -> None:
        columns = {
            "path": pa.array([os.fsencode(file.path) for file in files], pa.binary()),  # a name may not be valid UTF-8
            "size": pa.array([file.size for file in files], pa.int64()),
            "problem": pa.array([file.problem for file in files], pa.string()),
        }
        table = pa.table(columns)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._write(f"{self._folder}/files/{number:08d}.parquet", sink.getvalue())

    def _write(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write a file atomically, also on a filesystem that shows files while they are being written.

        Raises CannotWrite.
        """
        unfinished = f"{self._folder}/unfinished/{uuid.uuid4().hex}"
        try:
            for target in (unfinished, path):
                self._out.create_dir(target.rpartition("/")[0], recursive=True)
            with self._out.open_output_stream(unfinished) as file:
                file.write(data)
            self._out.move(unfinished, path)
        except OSError as error:
            raise CannotWrite(f"cannot write {path}: {error}") from error

    def _exists(self, path: str) -> bool:
        info: fs.FileInfo = self._out.get_file_info(path)
        return bool(info.type == fs.FileType.File)


def _locate(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a URI or path, and the path on it. Raises ValueError for an unknown filesystem."""
    if "://" not in uri:
        return fs.LocalFileSystem(), os.path.realpath(uri)  # Path.resolve() raises for a link to itself
    filesystem, path = fs.FileSystem.from_uri(uri)
    return filesystem, path.rstrip("/")
