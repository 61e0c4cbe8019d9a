#!/usr/bin/env python3
"""Reads a lake with nothing of this project: the log as JSON, the data files with Arrow's C++ Parquet reader.

    python3 -m pip install pyarrow
    python3 subscription-delta/tests/read_back.py LAKE

Checks of every table that each file the log names is there, with the rows, the bounds and the columns that the log
says, and that no column holds a null that may not. Prints a line a table; exit code 1 if anything differs.
"""

import json
import pathlib
import sys
import urllib.parse

import pyarrow as pa
import pyarrow.parquet as parquet

PRIMITIVES = {
    "string": pa.string(),
    "long": pa.int64(),
    "integer": pa.int32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "binary": pa.binary(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}


def arrow_type(delta):
    if isinstance(delta, str):
        if delta.startswith("decimal("):
            precision, scale = delta[8:-1].split(",")
            return pa.decimal128(int(precision), int(scale))
        return PRIMITIVES[delta]
    if delta["type"] == "array":
        return pa.list_(pa.field("element", arrow_type(delta["elementType"]), delta["containsNull"]))
    if delta["type"] == "map":
        value = pa.field("value", arrow_type(delta["valueType"]), delta["valueContainsNull"])
        return pa.map_(arrow_type(delta["keyType"]), value)
    return pa.struct([pa.field(f["name"], arrow_type(f["type"]), f["nullable"]) for f in delta["fields"]])


def replay(log):
    """The active files and the metadata, from the newest checkpoint and the entries behind it."""
    files, metadata, first = {}, None, 0
    checkpoints = sorted(log.glob("*.checkpoint.parquet"))
    if checkpoints:
        first = int(checkpoints[-1].name[:20]) + 1
        for row in parquet.read_table(checkpoints[-1]).to_pylist():
            if row.get("add"):
                add = row["add"]
                add["partitionValues"] = dict(add["partitionValues"])
                files[add["path"]] = add
            metadata = row.get("metaData") or metadata
    for version in range(first, 1 << 62):
        entry = log / f"{version:020}.json"
        if not entry.exists():
            return files, metadata, version - 1
        for line in entry.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                files[action["add"]["path"]] = action["add"]
            elif "remove" in action:
                del files[action["remove"]["path"]]
            elif "metaData" in action:
                metadata = action["metaData"]


def check(table):
    files, metadata, version = replay(table / "_delta_log")
    schema = json.loads(metadata["schemaString"])["fields"]
    partition = metadata["partitionColumns"]
    columns = [field for field in schema if field["name"] not in partition]
    rows = 0
    for path, add in files.items():
        file = table / urllib.parse.unquote(path)
        assert file.stat().st_size == add["size"], f"{file}: size"
        data = parquet.ParquetFile(file).read()
        stats = json.loads(add["stats"])
        assert data.num_rows == stats["numRecords"], f"{file}: rows"
        assert data.column_names == [field["name"] for field in columns], f"{file}: columns {data.column_names}"
        for field in columns:
            column = data.column(field["name"])
            assert column.type == arrow_type(field["type"]), f"{file}: {field['name']} is {column.type}"
            assert field["nullable"] or column.null_count == 0, f"{file}: {field['name']} has nulls"
        for name, least in stats["minValues"].items():
            values = data.column(name).to_pylist()
            shown = [v.isoformat(timespec="milliseconds").replace("+00:00", "Z") if hasattr(v, "isoformat") else v for v in values]
            assert (min(shown), max(shown)) == (least, stats["maxValues"][name]), f"{file}: bounds of {name}"
        assert set(add["partitionValues"]) == set(partition), f"{file}: partition"
        rows += data.num_rows
    print(f"{table.name}: version {version}, {len(files)} files, {rows} rows")


def main():
    for log in sorted(pathlib.Path(sys.argv[1]).glob("*/_delta_log")):
        check(log.parent)


if __name__ == "__main__":
    main()
