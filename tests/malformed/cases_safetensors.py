"""Weight files: header, tensors, shards and index."""

import json
import os

from corpus_base import read_safetensors, safetensors, sparse, tensor, write

GIT_LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 123456\n"
ONE = '"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}'
SHARD = "model-0000{}-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def weights(c, group, name, contents, exits, substring):
    c.model(group, name, exits, substring, {"model.safetensors": contents})


def header_cases(c):
    def case(name, contents, substring, exits=4):
        weights(c, "header", name, contents, exits, substring)

    for n in range(8):
        case(f"file_of_{n}_bytes", b"\x02\0\0\0\0\0\0"[:n], "empty" if n == 0 else "too short")
    case("length_0", safetensors(b""), "must start with '{'")
    case("length_1", safetensors(b"{", length=1), "not valid JSON")
    case("length_2_pow_63", safetensors(b"{}", length=1 << 63), "more than the limit")
    case("length_2_pow_64_minus_1", safetensors(b"{}", length=(1 << 64) - 1), "more than the limit")
    case("length_file_plus_1", safetensors(b"{}", length=3), "is the download complete?")
    path = c.model("header", "length_above_limit", 4, "more than the limit", without=["model.safetensors"])
    sparse(os.path.join(path, "model.safetensors"), 100_000_100, safetensors(b"{", length=100_000_001))
    case("starts_with_array", safetensors("[]"), "must start with '{'")
    case("starts_with_space", safetensors(" {" + ONE + "}", b"0123"), "must start with '{'")
    case("byte_order_mark", safetensors("\ufeff{" + ONE + "}", b"0123"), "must start with '{'")
    case("utf16", safetensors(("{" + ONE + "}").encode("utf-16-le"), b"0123"), "header: ")
    case("invalid_utf8", safetensors(b'{"\xff\xfe":{}}'), "not valid JSON")
    case("overlong_utf8", safetensors(b'{"\xc0\x80":{}}'), "not valid JSON")
    case("truncated_json", safetensors("{" + ONE, b"0123"), "not valid JSON")
    case("trailing_junk", safetensors("{" + ONE + "} x", b"0123"), "not valid JSON")
    case("nul_then_junk", safetensors(b"{" + ONE.encode() + b"}\0{}", b"0123"), "NUL")
    case("depth_100000", safetensors('{"x":' + "[" * 100000), "must be an object")
    case("depth_100000_in_shape", safetensors('{"x":{"shape":' + "[" * 100000), "the shape holds an array")
    case("duplicate_name", safetensors("{" + ONE + "," + ONE + "}", b"0123"), "tensor 'x': defined twice")
    case("nul_in_name", safetensors('{"a\\u0000":' + ONE[4:] + "}", b"0123"), "control characters")
    case("newline_in_name", safetensors('{"a\\nb":' + ONE[4:] + "}", b"0123"), "control characters")
    case("name_of_1_mb", safetensors('{"' + "n" * (1 << 20) + '":' + ONE[4:] + "}", b"0123"), "longer than 1024 bytes")
    case("empty_name", safetensors('{"":' + ONE[4:] + "}", b"0123"), "the name is empty")
    case("entry_is_array", safetensors('{"x":[]}'), "must be an object")
    case("no_tensors", safetensors("{}"), "no tensors")
    case("comment", safetensors("{/* a */" + ONE + "}", b"0123"), "not valid JSON")
    case("git_lfs_pointer", GIT_LFS, "git lfs pull")
    case("web_page", "<!DOCTYPE html><html><body>Access denied</body></html>", "web page")
    case("is_a_pickle", b"\x80\x04\x95" + b"\0" * 60, "safetensors")


def tensor_cases(c):
    def case(name, header, substring, exits=4, data=b"01234567"):
        weights(c, "tensors", name, safetensors(header, data), exits, substring)

    def one(name, substring, dtype="U8", shape=None, offsets=None, **kw):
        entry = {"dtype": dtype, "shape": [8] if shape is None else shape, "data_offsets": [0, 8] if offsets is None else offsets}
        case(name, {"x": entry}, substring, **kw)

    one("begin_after_end", "end before they begin", offsets=[8, 0])
    one("end_past_file", "past the end of the file", shape=[9], offsets=[0, 9])
    one("end_2_pow_64", "above 64 bits", offsets=[0, 1 << 64])
    one("offsets_near_wrap", "unused bytes", offsets=[(1 << 64) - 9, (1 << 64) - 1])
    one("offsets_negative", "negative", offsets=[-8, 0])
    one("offsets_1", "two numbers", offsets=[0])
    one("offsets_3", "two numbers", offsets=[0, 8, 8])
    one("offsets_strings", "holds a string", offsets=["0", "8"])
    one("offsets_object", "must be an array", offsets={"begin": 0, "end": 8})
    one("shape_product_overflow", "overflows", shape=[1 << 32, 1 << 32])
    one("shape_bytes_overflow", "overflows", dtype="F32", shape=[1 << 62])
    one("shape_negative", "negative", shape=[-8])
    one("shape_fraction", "fraction", shape=[8.5])
    one("shape_1e308", "fraction", shape=[1e308])
    one("shape_2_pow_53_plus_1", "past the end", shape=[(1 << 53) + 1], offsets=[0, (1 << 53) + 1])
    one("shape_2_pow_63", "above 63 bits", shape=[1 << 63])
    one("shape_string", "holds a string", shape=["8"])
    one("rank_9", "more than 8 dimensions", shape=[1] * 8 + [8])
    one("rank_10000", "more than 8 dimensions", shape=[1] * 10000)
    one("dtype_unknown", "unknown dtype 'X8'", dtype="X8")
    one("dtype_lower_case", "unknown dtype 'u8'", dtype="u8")
    one("dtype_of_gguf", "unknown dtype 'Q4_0'", dtype="Q4_0")
    one("dtype_foreign", "not supported", dtype="F8_E8M0", exits=8)
    one("dtype_number", "dtype must be a string", dtype=8)
    one("dtype_size_mismatch", "takes 32 bytes, but data_offsets span 8", dtype="F32")
    one("bytes_after_last", "after the last tensor", shape=[7], offsets=[0, 7])
    case("overlap", {"a": tensor("U8", [5], 0, 5), "b": tensor("U8", [4], 4, 8)}, "overlap")
    case("same_bytes_twice", {"a": tensor("U8", [8], 0, 8), "b": tensor("U8", [8], 0, 8)}, "overlap")
    case("hole", {"a": tensor("U8", [3], 0, 3), "b": tensor("U8", [4], 4, 8)}, "unused bytes")
    case("metadata_number", {"__metadata__": {"format": 1}, "x": tensor("U8", [8], 0, 8)}, "must be a string")
    case("metadata_array", {"__metadata__": [], "x": tensor("U8", [8], 0, 8)}, "__metadata__")
    case("field_missing", {"x": {"dtype": "U8", "shape": [8]}}, "missing")
    case("field_unknown", {"x": dict(tensor("U8", [8], 0, 8), extra=1)}, "unknown field 'extra'")
    case("field_twice", '{"x":{"dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]}}', "appears twice")

    # Allowed by the format: these must load.
    header, data = read_safetensors(os.path.join(c.out, "base", "model.safetensors"))
    end = len(data)
    header["zzz.empty"] = tensor("F32", [0, 7], end, end)
    header["zzz.scalar"] = tensor("F32", [], end, end + 4)
    weights(c, "tensors", "empty_and_scalar_are_valid", safetensors(header, data + b"\0" * 4), 0, "")
    del header["zzz.empty"], header["zzz.scalar"]
    shuffled = dict(sorted(header.items(), key=lambda item: item[0][::-1]))
    weights(c, "tensors", "any_order_and_padding_are_valid", safetensors(json.dumps(shuffled) + " " * 99, data), 0, "")
    weights(c, "tensors", "truncated_by_1", safetensors(header, data[:-1]), 4, "1 bytes past the end of the file")
    weights(c, "tensors", "truncated_half", safetensors(header, data[:end // 2]), 4, "past the end of the file")
    missing = {k: v for k, v in header.items() if k != "__metadata__"}
    first = min(missing, key=lambda k: missing[k]["data_offsets"][0])
    renamed = {("other" if k == first else k): v for k, v in header.items()}
    weights(c, "tensors", "needed_tensor_absent", safetensors(renamed, data), [3, 4], first)
    turned = json.loads(json.dumps(header))
    turned["model.layers.0.mlp.up_proj.weight"]["shape"].reverse()
    weights(c, "tensors", "wrong_shape", safetensors(turned, data), [2, 4], "model.layers.0.mlp.up_proj.weight")
    integers = json.loads(json.dumps(header))
    integers["model.norm.weight"]["dtype"] = "I16"
    weights(c, "tensors", "norm_of_integers", safetensors(integers, data), [2, 4, 8], "model.norm.weight")


def shard_cases(c):
    a = safetensors({"a": tensor("U8", [1], 0, 1)}, b"a")
    b = safetensors({"b": tensor("U8", [1], 0, 1)}, b"b")
    names = {"a": SHARD.format(1), "b": SHARD.format(2)}

    def case(name, exits, substring, index, files):
        files = dict(files)
        if index is not None:
            files[INDEX] = index if isinstance(index, (str, bytes)) else {"metadata": {"total_size": 2}, "weight_map": index}
        return c.model("shards", name, exits, substring, files, without=["model.safetensors"])

    both = {SHARD.format(1): a, SHARD.format(2): b}
    case("no_weights", 3, "no model*.safetensors", None, {})
    case("shard_missing", 3, SHARD.format(2), names, {SHARD.format(1): a})
    case("shard_missing_without_index", 3, "1 of 2 shards", None, {SHARD.format(1): a})
    case("tensor_in_two_shards", 4, "tensor 'a'", names, {SHARD.format(1): a, SHARD.format(2): a})
    case("tensor_in_two_files_without_index", 4, "tensor 'a'", None, {SHARD.format(1): a, SHARD.format(2): a})
    case("tensor_of_index_absent", 4, "tensor 'c'", dict(names, c=SHARD.format(2)), both)
    case("tensor_not_in_index", 4, "tensor 'b': not listed", {"a": SHARD.format(1), "z": SHARD.format(2)}, both)
    case("tensor_in_other_shard", 4, "places it in", {"a": SHARD.format(2), "b": SHARD.format(1)}, both)
    for label, shard in (("parent", "../base/model.safetensors"), ("absolute", "/etc/hostname.safetensors"),
                         ("folder", "sub/model.safetensors"), ("backslash", "..\\model.safetensors"), ("dots", ".."),
                         ("empty", ""), ("nul", "a\0.safetensors"), ("other_kind", "pytorch_model.bin"),
                         ("long", "n" * 300 + ".safetensors")):
        case(f"index_name_{label}", 4, "is not the name of a .safetensors file", {"a": shard}, both)
    case("index_value_number", 4, "must be a string", {"a": 1}, both)
    case("index_without_map", 4, "weight_map", "{}", both)
    case("index_is_array", 4, "weight_map", "[]", both)
    case("index_map_empty", 4, "weight_map is empty", {}, both)
    case("index_truncated", 4, "not valid JSON", '{"weight_map": {"a": ', both)
    case("index_duplicate_key", 4, "appears twice", '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', both)
    case("index_deep", 4, "nested deeper", '{"weight_map": ' + "[" * 100000, both)
    case("index_lfs_pointer", 4, "git lfs pull", GIT_LFS, both)
    case("shard_lfs_pointer", 4, "git lfs pull", names, {SHARD.format(1): a, SHARD.format(2): GIT_LFS})
    case("shard_empty", 4, "empty", names, {SHARD.format(1): a, SHARD.format(2): b""})
    case("pickle_only", 8, "pytorch_model.bin", None, {"pytorch_model.bin": b"\x80\x02"})

    path = c.model("shards", "weights_are_a_fifo", 2, "not a regular file", without=["model.safetensors"])
    os.mkfifo(os.path.join(path, "model.safetensors"))
    path = c.model("shards", "weights_are_a_directory", 2, "not a regular file", without=["model.safetensors"])
    os.mkdir(os.path.join(path, "model.safetensors"))
    path = c.model("shards", "weights_are_a_link_loop", 2, "cannot open", without=["model.safetensors"])
    os.symlink("model.safetensors", os.path.join(path, "model.safetensors"))
    path = c.model("shards", "weights_link_nowhere", 3, "no such file", without=["model.safetensors"])
    os.symlink("../../blobs/none", os.path.join(path, "model.safetensors"))
    path = case("index_is_a_fifo", 2, "not a regular file", None, both)
    os.mkfifo(os.path.join(path, INDEX))

    total = {"metadata": {"total_size": 7}, "weight_map": {}}
    header, _ = read_safetensors(os.path.join(c.out, "base", "model.safetensors"))
    total["weight_map"] = {k: "model.safetensors" for k in header if k != "__metadata__"}
    c.model("shards", "index_total_size_wrong_is_valid", 0, "", {INDEX: total})
    stale = {"metadata": {}, "weight_map": {"a": SHARD.format(1)}}
    c.model("shards", "stale_index_beside_whole_model_is_valid", 0, "", {INDEX: stale})

    empty = os.path.join(c.out, "shards", "empty_directory")
    os.makedirs(empty)
    c.add("shards", "empty_directory", empty, ["inspect", "{path}"], 3, "no config.json")
    c.add("shards", "no_such_path", os.path.join(c.out, "shards", "nothing_here"), ["inspect", "{path}"], 3, "no such")
    text = os.path.join(c.out, "shards", "a_text_file")
    write(text, "hello")
    c.add("shards", "a_text_file", text, ["inspect", "{path}"], 2, "not a model")


def add_cases(c):
    header_cases(c)
    tensor_cases(c)
    shard_cases(c)
