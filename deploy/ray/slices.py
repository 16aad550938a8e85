"""A collection in slices, and what has been done of it, on any filesystem of pyarrow's.

    OUT/run.json                                what decides the answers; another run is not mixed in
    OUT/files/00000012.parquet                  which files the slice 12 has, listed once; whole when `slices` is there
    OUT/rows/thousand=00000/00000012.parquet    its answers, as `vitrine embed` writes them
    OUT/failures/00000012.jsonl                 those that could not be used; when this is there, the slice is done

A slice's name says which files it has. So a slice that is computed twice, by another try of Ray's or by two runs at
once, is the same file twice, and what is done is seen by listing one directory. Ray Data's own checkpoint keeps the id
of every row in the memory of its actors, 8 GB in each for a thousand million rows; here it is a name for 4096 rows.
"""

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from app.bulk.answers import Failure
from app.bulk.listing import SUFFIXES, ListedFile
from app.bulk.parts import compare
from app.bulk.tables import Facts, Row, arrow, metadata
from app.settings import ImageFormat

SLICE = 4096
"""Files of a slice: what an actor's death costs at most, and the rows of one file of the output."""


class Slices:
    """The inputs and the output of a run; goes to every actor.

    Args:
        inputs: folders, as URIs or paths.
        output: a folder, likewise.
    """

    def __init__(self, inputs: Sequence[str], output: str) -> None:
        self.inputs = tuple(inputs)
        self._sources = [_place(one) for one in inputs]
        if len({type(source) for source, _ in self._sources}) > 1:
            raise ValueError("the inputs lie on different filesystems; each wants a run of its own")
        self._source = self._sources[0][0]
        self._out, self._folder = _place(output)

    def claim(self, facts: Facts) -> None:
        """Take the output for the run of these facts. Raises OtherRun where it is another's."""
        path = f"{self._folder}/run.json"
        if self._exists(path):
            with self._out.open_input_stream(path) as file:
                compare(json.loads(file.readall()), facts, Path(self._folder))
        else:
            self._write(path, json.dumps(facts, indent=1).encode())

    def list_files(self, formats: Sequence[ImageFormat]) -> int:
        """List the files once and for all, unless that was done; how many slices they are."""
        done = f"{self._folder}/files/slices"
        if self._exists(done):
            with self._out.open_input_stream(done) as file:
                return int(file.readall())
        suffixes = tuple(suffix for one in formats for suffix in SUFFIXES[one])
        count = 0
        gathered: list[ListedFile] = []
        for _, root in self._sources:
            for found in self._walk(root, suffixes):
                gathered.append(found)
                if len(gathered) == SLICE:
                    self._write_files(count, gathered)
                    count, gathered = count + 1, []
        if gathered:
            self._write_files(count, gathered)
            count += 1
        self._write(done, str(count).encode())
        return count

    def missing(self) -> list[int]:
        """Slices that are still to be done."""
        with self._out.open_input_stream(f"{self._folder}/files/slices") as file:
            total = int(file.readall())
        infos = self._out.get_file_info(fs.FileSelector(f"{self._folder}/failures", allow_not_found=True))
        done = {int(info.base_name.partition(".")[0]) for info in infos}
        return [number for number in range(total) if number not in done]

    def files(self, number: int) -> Iterator[ListedFile]:
        """The files of a slice, in order."""
        table = pq.read_table(f"{self._folder}/files/{number:08d}.parquet", filesystem=self._out, partitioning=None)
        for path, size in zip(table["path"].to_pylist(), table["size"].to_pylist(), strict=True):
            yield ListedFile(path, size)

    def read(self, path: str, most: int) -> bytes:
        """The bytes of a file, of a longer one the beginning. Raises OSError."""
        with self._source.open_input_stream(path) as file:
            data: bytes = file.read(most)
        return data

    def write(self, number: int, rows: Sequence[Row], faults: Sequence[Failure], facts: Facts) -> None:
        """A slice is done: first its answers, then, by which that is seen, what could not be used."""
        if len(faults) < len(rows):
            table = arrow(rows)
            sink = pa.BufferOutputStream()
            pq.write_table(
                table.replace_schema_metadata(metadata(facts)), sink, compression="zstd", use_dictionary=False
            )
            path = f"{self._folder}/rows/thousand={number // 1000:05d}/{number:08d}.parquet"
            self._write(path, sink.getvalue())
        lines = "".join(f"{json.dumps(asdict(fault))}\n" for fault in faults)
        self._write(f"{self._folder}/failures/{number:08d}.jsonl", lines.encode())

    def _walk(self, folder: str, suffixes: tuple[str, ...]) -> Iterator[ListedFile]:
        """Files, then folders, each by name: the same order as on one machine. In memory is one folder at a time."""
        infos = sorted(self._source.get_file_info(fs.FileSelector(folder)), key=lambda info: info.base_name)
        shown = [info for info in infos if not info.base_name.startswith(".")]
        for info in shown:
            if info.type == fs.FileType.File and info.base_name.lower().endswith(suffixes):
                yield ListedFile(info.path, info.size)
        folders = [info.path for info in shown if info.type == fs.FileType.Directory]
        del infos, shown
        for path in folders:
            yield from self._walk(path, suffixes)

    def _write_files(self, number: int, found: Sequence[ListedFile]) -> None:
        table = pa.table({"path": [one.path for one in found], "size": [one.size for one in found]})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._write(f"{self._folder}/files/{number:08d}.parquet", sink.getvalue())

    def _write(self, path: str, data: bytes | pa.Buffer) -> None:
        """A file that is there whole or not at all, also where a filesystem shows what is being written."""
        unfinished = f"{self._folder}/unfinished/{uuid.uuid4().hex}"
        for place in (unfinished, path):
            self._out.create_dir(place.rpartition("/")[0], recursive=True)
        with self._out.open_output_stream(unfinished) as file:
            file.write(data)
        self._out.move(unfinished, path)

    def _exists(self, path: str) -> bool:
        info: fs.FileInfo = self._out.get_file_info(path)
        return bool(info.type == fs.FileType.File)


def _place(uri: str) -> tuple[fs.FileSystem, str]:
    """A filesystem of pyarrow's and the path on it. Raises ValueError for one that it does not know."""
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).resolve())
    filesystem, path = fs.FileSystem.from_uri(uri)
    return filesystem, path.rstrip("/")
