"""Damage to files: bytes, and the structure of what they hold. All of it follows from a seed."""

import copy
import datetime
import decimal
import gzip
import io
import json
import re
import struct
import sys
import zipfile

import numpy as np
import pyarrow as pa

# Values where another kind or size was expected.
ODD = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**300, 1e308, 5e-324, -0.0),
    *(float("inf"), float("-inf"), float("nan"), "", " ", "nan", "inf", "1e400", "true", "\x00"),
    *("\u202e", "\ud83d", "<b>", "x" * 5000, "label", "a\nb", "=1+1", "2024-01-01", "9999-13-45"),
    *([], {}, [[]], [None], {"a": 1}, [1, 2, 3], ["label", "label"], [{"a": [{"b": 1}]}]),
)
# The same as cells of a table; the CSV writer of Python 3.10 knows no NUL.
CELLS = [str(odd) for odd in ODD if sys.version_info >= (3, 11) or "\0" not in str(odd)]
# Pieces of text that mean something to one of the parsers.
TOKENS = (
    *(b"1e400", b"9" * 40, b"-1", b"nan", b"-inf", b"", b"[]", b"{}", b"null", b"true", b"'"),
    *(b'"', b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\t", b"&a", b"*a", b"<<: *a"),
    *(b"!!python/object/apply:os.system ['id']", b"!!binary aGk=", b"!!set {a}", b"!!omap [a: 1]"),
    *(b"!!int x", b"!!timestamp 2024-13-01", b"!tensor a.npy", b"!text a", b"? ", b"- ", b": "),
    *(
        b"---\n",
        b"...\n",
        b"%YAML 1.3\n",
        b"| \n",
        b",,,,,",
        b";",
        b"\xc3\x28",
        b"\xf0\x9f\x98\x80",
    ),
    *(b"\xe2\x80\xae", b"0x1F", b"1_000", b"12:30:45", b"2024-13-45", b"#", b"@", b"`", b"\\u0000"),
)
NUMBERS = (b"1e400", b"9" * 40, b"-9223372036854775809", b"18446744073709551616", b"1e-400")
NUMBERS += (b"nan", b"abc", b"", b"1e308", b"0x10", b"-inf", b"9" * 5000)
BRACKETS = ((b"[", b"]"), (b"{a: ", b"}"), (b'{"a":', b"}"), (b'"a":[', b"]"), (b"- ", b""))
CODECS = ("utf-16", "utf-16-le", "utf-32", "latin1", "cp1252")
_TAG = re.compile(rb"!\w+ ('[^']*'|[^\s,}]+)")
_NUMBER = re.compile(rb"-?\d+(\.\d+)?(e-?\d+)?")


def damaged_bytes(data, rng):
    """Bytes flipped, cut, repeated, replaced by tokens, re-encoded, or nested deeply."""
    damage = rng.choice((_flipped, _cut, _moved, _with_tokens, _renumbered, _nested, _lines))
    return bytes(damage(bytearray(data), rng))


def _flipped(data, rng):
    for _ in range(rng.choice((1, 1, 2, 8, 50))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _cut(data, rng):
    place = rng.randrange(len(data) + 1)
    if rng.random() < 0.4:
        return data[:place]
    return data[:place] + data[place + rng.choice((1, 2, 5, 50, 500)) :]


def _moved(data, rng):
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 5, 50, 500))]
    place = rng.randrange(len(data) + 1)
    return data[:place] + piece * rng.choice((1, 2, 20)) + data[place:]


def _with_tokens(data, rng):
    for _ in range(rng.choice((1, 1, 3))):
        place, token = rng.randrange(len(data) + 1), rng.choice(TOKENS)
        data[place : place + rng.choice((0, len(token)))] = token
    return data


def _renumbered(data, rng):
    found = list(_NUMBER.finditer(bytes(data)))
    if found:
        one = rng.choice(found)
        data[one.start() : one.end()] = rng.choice(NUMBERS)
    return data


def _nested(data, rng):
    depth, (left, right) = rng.choice((50, 500, 3000)), rng.choice(BRACKETS)
    place = rng.randrange(len(data) + 1)
    data[place:place] = left * depth + right * (depth if rng.random() < 0.7 else 0)
    return data


def _lines(data, rng):
    kind = rng.randrange(5)
    if kind == 0:
        try:
            return bytearray(bytes(data).decode().encode(rng.choice(CODECS)))
        except UnicodeError:
            return b"\xff" + data
    if kind == 1:
        return bytearray(bytes(data).replace(b"\n", b"\r\n"))
    lines = bytes(data).split(b"\n")
    if kind == 2:
        rng.shuffle(lines)
    elif kind == 3:
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    else:
        lines.pop(rng.randrange(len(lines)))
    return bytearray(b"\n".join(lines))


def damaged_value(value, rng):
    """A value of lists and mappings with some entries replaced, removed, renamed or nested."""
    root = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        parent, key = rng.choice(list(_places(root)))
        kind = rng.randrange(6)
        if kind == 0 and parent is not root:
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            parent[str(rng.choice(ODD))[:50]] = parent.pop(key)
        elif kind == 2:
            parent[key] = [parent[key]] * rng.choice((1, 2))
        elif kind == 3 and isinstance(parent, list) and parent is not root:
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[key] = copy.deepcopy(rng.choice(ODD))
    return root[0]


def _places(value):
    entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    for key, inner in entries:
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def damaged_json(data, rng):
    """A JSON file with damaged bytes or values; other texts with damaged bytes."""
    try:
        value = json.loads(data)
    except ValueError:
        return damaged_bytes(data, rng)
    if rng.random() < 0.4 or not isinstance(value, (dict, list)):
        return damaged_bytes(data, rng)
    return json.dumps(damaged_value(value, rng)).encode("utf-8", "surrogatepass")


def damaged_yaml(data, rng):
    """A YAML file with damaged bytes or values, or with aliases that expand without end."""
    kind = rng.random()
    if kind < 0.55:
        return damaged_bytes(data, rng)
    from ruamel.yaml import YAML

    yaml, stream = YAML(typ="safe", pure=True), io.StringIO()
    if kind < 0.93:
        # JSON is YAML too, so that any value can be written.
        value = damaged_value(yaml.load(_TAG.sub(b"3", data)), rng)
        return json.dumps(value).encode("utf-8", "surrogatepass")
    levels, width = rng.randrange(2, 12), rng.randrange(2, 12)
    if rng.random() < 0.5:
        stream.write("k0: &k0 [x, x]\n")
        for i in range(1, levels):
            stream.write(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * width)}]\n")
    else:
        stream.write("k0: &k0 {a0: 1}\n")
        for i in range(1, levels):
            merged = ", ".join([f"*k{i - 1}"] * width)
            stream.write(f"k{i}: &k{i} {{<<: [{merged}], a{i}: 1}}\n")
    return stream.getvalue().encode() + data


def damaged_safetensors(data, rng):
    """A safetensors file with damaged bytes, or with another header: shapes, types, offsets."""
    if rng.random() < 0.4:
        return damaged_bytes(data, rng)
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = header.get("__metadata__")
    if metadata and rng.random() < 0.5:
        # Metadata are texts, often JSON of their own.
        key = rng.choice(sorted(metadata))
        metadata[key] = damaged_json(metadata[key].encode(), rng).decode("utf-8", "replace")
    elif rng.random() < 0.3:
        names = [name for name in header if name != "__metadata__"]
        one = header[rng.choice(names)] if names else {}
        one["dtype"] = rng.choice(("F64", "I64", "F16", "BOOL", "BF16", "U8", "F8_E5M2", "X"))
    else:
        header = damaged_value(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    length = rng.choice((len(text),) * 8 + (0, 2**62, len(text) + 5))
    return struct.pack("<Q", length) + text + data[8 + size :]


def damaged_zip(data, rng):
    """A ZIP archive (npz, pt, pt2) with damaged bytes, or one entry damaged, removed or doubled."""
    if rng.random() < 0.3:
        return damaged_bytes(data, rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        names = old.namelist()
        chosen = rng.choice(names)
        for name in names:
            content = old.read(name)
            if name == chosen:
                kind = rng.randrange(8)
                if kind == 0:
                    continue
                if name.endswith(".json"):
                    content = damaged_json(content, rng)
                elif kind == 1:
                    content = b""
                else:
                    content = damaged_bytes(content, rng)
                if kind == 2:
                    name = rng.choice(("a", "../x", name.upper(), "x" * 300))
            new.writestr(name, content)
    return stream.getvalue()


def npz_arrays(rng):
    """An npz file of arrays of any kind and shape, under the names that are read."""
    shapes = ((50,), (50, 3), (50, 1), (50, 0), (0,), (0, 3), (), (50, 3, 2), (3, 50), (49, 3))
    kinds = ("f8", "f4", "f2", ">f8", "g", "i8", "u1", "u2", "u8", "?", "c16", "U3", "S2", "M8[D]")
    arrays = {}
    for name in ("logits", "probs", "targets", "labels", "features", "other"):
        if rng.random() < 0.5:
            generator = np.random.default_rng(rng.randrange(2**32))
            values = generator.normal(scale=rng.choice((0.1, 1.0, 1e3)), size=rng.choice(shapes))
            kind = np.dtype(rng.choice(kinds))
            with np.errstate(all="ignore"):
                whole = np.nan_to_num(np.abs(values)).astype("i8")
                arrays[name] = (whole if kind.kind in "MUS" else values).astype(kind)
            if kind.kind == "f" and values.size and rng.random() < 0.3:
                arrays[name].flat[0] = rng.choice((np.nan, np.inf, -np.inf))
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npz_claims(rng):
    """An npz file whose header claims what it does not hold, or that holds zeros without end."""
    shape = rng.choice(((10**13,), (2**62, 3), (-1, 3), (10**6, 10**6), (3, 0, 2**60), (50, 3)))
    kind = rng.choice(("<f8", "|O", "<U1000", "<i4", "<c16", "|V8", "[('a', '<f8')]", "nonsense"))
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logits.npy", content + bytes(rng.choice((0, 8, 1200, 10**6))))
    return stream.getvalue()


def gzipped(data, rng):
    """A gzip file, at times damaged or cut."""
    packed = gzip.compress(data, mtime=0)
    return damaged_bytes(packed, rng) if rng.random() < 0.5 else packed


def odd_column(rng, n):
    """An Arrow column of a kind that a table of features seldom holds."""
    half = n // 2
    columns = (
        lambda: [decimal.Decimal("1.5")] * n,
        lambda: [datetime.date(2024, 1, 1)] * n,
        lambda: pa.array([datetime.datetime(2024, 1, 1)] * n, pa.timestamp("ns", "Europe/Berlin")),
        lambda: pa.array([0] * n, pa.timestamp("s")),
        lambda: [[1, 2]] * n,
        lambda: [{"a": 1}] * n,
        lambda: [b"\xff\x00"] * n,
        lambda: [None] * n,
        lambda: [True, None] * half,
        lambda: pa.array([2**64 - 1] * n, pa.uint64()),
        lambda: pa.array(["a", None] * half).dictionary_encode(),
        lambda: [datetime.timedelta(days=1)] * n,
        lambda: [1, None] * half,
        lambda: [float("inf"), float("nan")] * half,
        lambda: pa.array(np.full(n, 1.5, np.float16)),
        lambda: [datetime.time(1, 2)] * n,
        lambda: pa.array([0] * n, pa.int8()),
        lambda: pa.array(["<b>"] * n, pa.large_string()),
        lambda: [1e308, -1e308] * half,
        lambda: pa.array([[("k", 1)]] * n, pa.map_(pa.string(), pa.int64())),
        lambda: [2**62] * n,
        lambda: [-1] * n,
        lambda: pa.array([b"abcd"] * n, pa.binary(4)),
        lambda: pa.array([0, 1] * half).dictionary_encode(),
        lambda: ["x" * 1000] * n,
        lambda: pa.array(np.arange(n) // 7).cast(pa.float64()),
        lambda: pa.array([[0.0, 1.0]] * n, pa.list_(pa.float64(), 2)),
        lambda: pa.array([1, 2] * half, pa.decimal128(5, 2)),
    )
    return pa.array(rng.choice(columns)())
