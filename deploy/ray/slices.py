"""Divide a collection into slices and save the progress of a run, on any filesystem that pyarrow supports.

    OUT/run.json                                what determines the answers; a run with other facts is rejected
    OUT/files/00000012.parquet                  the files of slice 12, listed once; OUT/files/slices completes the list
    OUT/rows/thousand=00000/00000012.parquet    its answers, in the format of `vitrine embed`
    OUT/failures/00000012.jsonl                 its failures; the existence of this file completes the slice

The number of a slice determines its files. A slice that is computed twice, by a retry of Ray or by two runs at the same
time, therefore writes the same file twice, and listing one directory shows which slices are done. Ray Data's own
checkpoint keeps the id of every row in the memory of each actor: 8 GB for a billion rows. Here one name covers 4096.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from app.bulk.listing import SUFFIXES, ListedFile
from app.bulk.parts import check_same_run
from app.bulk.rows import Failure
from app.bulk.tables import Facts, Row, arrow, metadata
from app.settings import ImageFormat

SLICE_FILES = 4096
"""Files per slice: the most work that the death of an actor can lose, and the rows of one file of the output."""


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
        self._out, self._folder = _locate(output)

    def claim(self, facts: Facts) -> None:
        """Use the output for the run with these facts. Raises DifferentRun if it belongs to another."""
        path = f"{self._folder}/run.json"
        if self._exists(path):
            with self._out.open_input_stream(path) as file:
                check_same_run(json.loads(file.readall()), facts, Path(self._folder))
        else:
            self._write(path, json.dumps(facts, indent=1).encode())

    def list_files(self, formats: Sequence[ImageFormat]) -> int:
        """List the files, unless an earlier run has. Returns the number of slices."""
        marker = f"{self._folder}/files/slices"
        if self._exists(marker):
            with self._out.open_input_stream(marker) as stream:
                return int(stream.readall())
        suffixes = tuple(suffix for name in formats for suffix in SUFFIXES[name])
        count = 0
        batch: list[ListedFile] = []
        for _, root in self._sources:
            for file in self._walk(root, suffixes):
                batch.append(file)
                if len(batch) == SLICE_FILES:
                    self._write_files(count, batch)
                    count, batch = count + 1, []
        if batch:
            self._write_files(count, batch)
            count += 1
        self._write(marker, str(count).encode())
        return count

    def missing(self) -> list[int]:
        """Return the numbers of the slices that remain."""
        with self._out.open_input_stream(f"{self._folder}/files/slices") as file:
            total = int(file.readall())
        infos = self._out.get_file_info(fs.FileSelector(f"{self._folder}/failures", allow_not_found=True))
        done = {int(info.base_name.partition(".")[0]) for info in infos}
        return [number for number in range(total) if number not in done]

    def files(self, number: int) -> Iterator[ListedFile]:
        """Yield the files of a slice, in order."""
        table = pq.read_table(f"{self._folder}/files/{number:08d}.parquet", filesystem=self._out, partitioning=None)
        for path, size in zip(table["path"].to_pylist(), table["size"].to_pylist(), strict=True):
            yield ListedFile(path, size)

    def read(self, path: str, limit: int) -> bytes:
        """Return the first `limit` bytes of a file. Raises OSError."""
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

    def _walk(self, folder: str, suffixes: tuple[str, ...]) -> Iterator[ListedFile]:
        """Yield files, then those of subfolders, each in alphabetical order, as on one machine.

        Memory holds the names of one folder at a time.
        """
        infos = sorted(self._source.get_file_info(fs.FileSelector(folder)), key=lambda info: info.base_name)
        visible = [info for info in infos if not info.base_name.startswith(".")]
        for info in visible:
            if info.type == fs.FileType.File and info.base_name.lower().endswith(suffixes):
                yield ListedFile(info.path, info.size)
        folders = [info.path for info in visible if info.type == fs.FileType.Directory]
        del infos, visible
        for path in folders:
            yield from self._walk(path, suffixes)

    def _write_files(self, number: int, files: Sequence[ListedFile]) -> None:
        table = pa.table({"path": [file.path for file in files], "size": [file.size for file in files]})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._write(f"{self._folder}/files/{number:08d}.parquet", sink.getvalue())

    def _write(self, path: str, data: bytes | pa.Buffer) -> None:
        """Write a file atomically, also on a filesystem that shows files while they are being written."""
        unfinished = f"{self._folder}/unfinished/{uuid.uuid4().hex}"
        for target in (unfinished, path):
            self._out.create_dir(target.rpartition("/")[0], recursive=True)
        with self._out.open_output_stream(unfinished) as file:
            file.write(data)
        self._out.move(unfinished, path)

    def _exists(self, path: str) -> bool:
        info: fs.FileInfo = self._out.get_file_info(path)
        return bool(info.type == fs.FileType.File)


def _locate(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a URI or path, and the path on it. Raises ValueError for an unknown filesystem."""
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).resolve())
    filesystem, path = fs.FileSystem.from_uri(uri)
    return filesystem, path.rstrip("/")
