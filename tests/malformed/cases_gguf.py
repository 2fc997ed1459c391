"""GGUF files, written by hand: a tiny valid model, and one fault in each copy of it."""

import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
PACK = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q", I64: "<q", F64: "<d"}
WIDTH, FEED, VOCAB = 32, 64, 300


def string(text, length=None):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def value(kind, v):
    return string(v) if kind == STR else struct.pack(PACK[kind], v)


def scalar(kind, v):
    return struct.pack("<I", kind) + value(kind, v)


def array(kind, items, count=None):
    head = struct.pack("<IIQ", ARR, kind, len(items) if count is None else count)
    return head + b"".join(value(kind, v) for v in items)


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    out, extra = [], 0
    for b in range(256):
        if b in plain:
            out.append(chr(b))
        else:
            out.append(chr(256 + extra))
            extra += 1
    return out


class Gguf:
    """Parts of a file; every one can be replaced before bytes() puts them together."""

    def __init__(self):
        self.magic, self.version, self.alignment = b"GGUF", 3, 32
        self.tensor_count = self.key_count = None
        self.names, self.ranks = {}, {}  # of a tensor, where the file is to lie
        tokens = byte_alphabet()
        tokens += [f"<|t{i}|>" for i in range(len(tokens), VOCAB)]
        self.keys = {
            "general.architecture": scalar(STR, "llama"),
            "llama.context_length": scalar(U32, 256),
            "llama.embedding_length": scalar(U32, WIDTH),
            "llama.block_count": scalar(U32, 1),
            "llama.feed_forward_length": scalar(U32, FEED),
            "llama.attention.head_count": scalar(U32, 2),
            "llama.attention.head_count_kv": scalar(U32, 1),
            "llama.attention.layer_norm_rms_epsilon": scalar(F32, 1e-5),
            "llama.rope.freq_base": scalar(F32, 10000.0),
            "tokenizer.ggml.model": scalar(STR, "gpt2"),
            "tokenizer.ggml.pre": scalar(STR, "llama-bpe"),
            "tokenizer.ggml.tokens": array(STR, tokens),
            "tokenizer.ggml.token_type": array(I32, [1] * 256 + [3] * (VOCAB - 256)),
            "tokenizer.ggml.merges": array(STR, ["h i"]),
            "tokenizer.ggml.bos_token_id": scalar(U32, 256),
            "tokenizer.ggml.eos_token_id": scalar(U32, 257),
        }
        tokens[-1] = "hi"
        self.keys["tokenizer.ggml.tokens"] = array(STR, tokens)
        self.keys["tokenizer.ggml.token_type"] = array(I32, [1] * 256 + [3] * (VOCAB - 257) + [1])
        self.tokens = tokens
        half = WIDTH // 2
        shapes = {"token_embd.weight": (WIDTH, VOCAB), "output_norm.weight": (WIDTH,), "output.weight": (WIDTH, VOCAB),
                  "blk.0.attn_norm.weight": (WIDTH,), "blk.0.ffn_norm.weight": (WIDTH,), "blk.0.attn_q.weight": (WIDTH, WIDTH),
                  "blk.0.attn_k.weight": (WIDTH, half), "blk.0.attn_v.weight": (WIDTH, half),
                  "blk.0.attn_output.weight": (WIDTH, WIDTH), "blk.0.ffn_gate.weight": (WIDTH, FEED),
                  "blk.0.ffn_up.weight": (WIDTH, FEED), "blk.0.ffn_down.weight": (FEED, WIDTH)}
        # name -> [dims, type, offset or None, data]; type 0 is F32
        self.tensors = {}
        for i, (name, dims) in enumerate(shapes.items()):
            count = dims[0] * (dims[1] if len(dims) > 1 else 1)
            self.tensors[name] = [dims, 0, None, b"".join(struct.pack("<f", ((j * 7919 + i) % 201 - 100) / 1000) for j in range(count))]

    def preamble(self):
        keys = len(self.keys) if self.key_count is None else self.key_count
        tensors = len(self.tensors) if self.tensor_count is None else self.tensor_count
        return self.magic + struct.pack("<IQQ", self.version, tensors, keys)

    def bytes(self, extra_keys=b"", tail=None):
        out = self.preamble() + b"".join(string(k) + v for k, v in self.keys.items()) + extra_keys
        data = b""
        for name, (dims, kind, offset, raw) in self.tensors.items():
            data += b"\0" * (-len(data) % self.alignment)
            at = len(data) if offset is None else offset
            out += string(self.names.get(name, name)) + struct.pack("<I", self.ranks.get(name, len(dims))) + b"".join(struct.pack("<Q", d % 2**64) for d in dims)
            out += struct.pack("<IQ", kind, at % 2**64)
            data += raw
        out += b"\0" * (-len(out) % self.alignment)
        out += data
        return out if tail is None else out[:tail]


def add_cases(c):
    def case(name, exits, substring, change=None, **kw):
        g = Gguf()
        if change is not None:
            change(g)
        c.file("gguf", name + ".gguf", g.bytes(**kw), exits, substring)

    def raw(name, exits, substring, contents):
        c.file("gguf", name + ".gguf", contents, exits, substring)

    def key(name, encoded):
        return lambda g: g.keys.update({name: encoded})

    def dims(*d):
        return lambda g: g.tensors["blk.0.ffn_up.weight"].__setitem__(0, d)

    whole = Gguf().bytes()
    case("valid", 0, "")
    raw("empty", 4, "empty", b"")
    raw("magic_only", 4, "ends inside", b"GGUF")
    raw("magic_lower_case", 4, "not a GGUF file", b"gguf" + whole[4:])
    raw("magic_of_ggml", 4, "not a GGUF file", b"lmgg" + whole[4:])
    raw("lfs_pointer", 4, "", b"version https://git-lfs.github.com/spec/v1\n")
    for version in (0, 1, 4, 2**32 - 1):
        case(f"version_{version}", 8, "version", lambda g, v=version: setattr(g, "version", v))
    case("big_endian", 8, "big-endian", lambda g: setattr(g, "version", 3 << 24))
    for label, n in (("2_pow_63", 2**63), ("2_pow_64_minus_1", 2**64 - 1), ("2_pow_32", 2**32), ("one_too_many", 17)):
        case(f"keys_{label}", [4, 5, 8], "", lambda g, n=n: setattr(g, "key_count", n))
    for label, n in (("2_pow_63", 2**63), ("2_pow_32", 2**32), ("one_too_many", 13)):
        case(f"tensors_{label}", [4, 5, 8], "", lambda g, n=n: setattr(g, "tensor_count", n))
    case("key_length_2_pow_63", 4, "", lambda g: setattr(g, "key_count", 17), extra_keys=struct.pack("<Q", 2**63) + b"x" * 64)
    case("key_empty", 4, "no name", key("", scalar(U8, 1)))
    case("key_twice", 4, "appears twice", lambda g: setattr(g, "key_count", 17),
         extra_keys=string("llama.block_count") + scalar(U32, 1))
    case("string_claims_1_gb", 4, "claims", key("zzz", struct.pack("<I", STR) + struct.pack("<Q", 1 << 30) + b"x"))
    case("string_claims_2_pow_64_minus_1", 4, "claims", key("zzz", struct.pack("<IQ", STR, 2**64 - 1)))
    case("value_type_255", 4, "unknown value type", key("zzz", struct.pack("<IQ", 255, 0)))
    case("array_type_255", 4, "unknown value type", key("zzz", struct.pack("<IIQ", ARR, 255, 1)))
    case("array_of_arrays", 8, "array of arrays", key("zzz", struct.pack("<IIQ", ARR, ARR, 1) + array(U8, [1])))
    case("array_claims_2_pow_61", 4, "do not fit", key("zzz", array(U64, [], 2**61)))
    case("array_claims_2_pow_63_strings", 4, "do not fit", key("zzz", array(STR, ["a"], 2**63)))
    case("array_claims_one_more", [4, 8], "", key("zzz", array(STR, ["a"], 4000)))
    case("bool_is_7", 4, "boolean", key("zzz", scalar(BOOL, 7)))
    case("rank_0", 4, "dimensions", dims())
    case("rank_5", 4, "dimensions", dims(32, 64, 1, 1, 1))
    case("rank_2_pow_32_minus_1", 4, "dimensions", lambda g: g.ranks.update({"blk.0.ffn_up.weight": 2**32 - 1}))
    case("dim_0", 4, "dimension", dims(32, 0))
    case("dim_minus_1", 4, "dimension", dims(32, -1))
    case("dim_2_pow_62", 4, "larger than the whole file", dims(32, 2**62))
    case("dims_product_wraps_to_64", 4, "larger than the whole file", dims(2**33, 2**33))
    case("tensor_type_999", 8, "unknown tensor type", lambda g: g.tensors["blk.0.ffn_up.weight"].__setitem__(1, 999))
    case("tensor_type_iq", 8, "not supported", lambda g: g.tensors["blk.0.ffn_up.weight"].__setitem__(1, 16))
    case("blocks_do_not_divide_row", 4, "whole blocks", lambda g: g.tensors["blk.0.ffn_up.weight"].__setitem__(1, 12))
    case("offset_unaligned", 4, "not a multiple", lambda g: g.tensors["output_norm.weight"].__setitem__(2, 38401))
    case("offset_past_end", 4, "past the end", lambda g: g.tensors["output_norm.weight"].__setitem__(2, 1 << 40))
    case("offset_wraps", 4, "", lambda g: g.tensors["output_norm.weight"].__setitem__(2, 2**64 - 32))
    case("tensors_overlap", 4, "overlap", lambda g: g.tensors["output_norm.weight"].__setitem__(2, 0))
    case("tensor_twice", 4, "appears twice", lambda g: g.names.update({"blk.0.ffn_up.weight": "blk.0.ffn_gate.weight"}))
    case("tensor_name_empty", 4, "no name", lambda g: g.names.update({"blk.0.ffn_up.weight": ""}))
    for alignment in (0, 3, 4, 2**31):
        case(f"alignment_{alignment}", 4, "alignment", key("general.alignment", scalar(U32, alignment)))
    case("alignment_u64", 4, "alignment", key("general.alignment", scalar(U64, 32)))
    case("truncated_in_keys", 4, "do not fit", tail=200)
    case("truncated_in_table", 4, "complete?", tail=len(whole) - len(whole) // 2 - 60000)
    case("truncated_by_1", 4, "past the end", tail=len(whole) - 1)
    case("truncated_half", 4, "", tail=len(whole) // 2)

    # What the keys mean.
    case("architecture_missing", 4, "general.architecture", lambda g: g.keys.pop("general.architecture"))
    case("architecture_unknown", 8, "architecture", key("general.architecture", scalar(STR, "plamo9")))
    case("architecture_number", 4, "general.architecture", key("general.architecture", scalar(U32, 1)))
    case("layers_0", 4, "llama.block_count", key("llama.block_count", scalar(U32, 0)))
    case("layers_2_pow_31", 4, "llama.block_count", key("llama.block_count", scalar(U32, 2**31)))
    case("heads_0", 4, "head_count", key("llama.attention.head_count", scalar(U32, 0)))
    case("heads_do_not_divide", 4, "", key("llama.attention.head_count", scalar(U32, 3)))
    case("eps_nan", 4, "layer_norm_rms_epsilon", key("llama.attention.layer_norm_rms_epsilon", scalar(F32, float("nan"))))
    case("embedding_missing", 4, "token_embd.weight", lambda g: g.tensors.pop("token_embd.weight"))
    case("layer_tensor_missing", [3, 4], "", lambda g: g.tensors.pop("blk.0.ffn_up.weight"))
    case("tensor_unknown", 8, "blk.7.magic.weight", lambda g: g.tensors.update({"blk.7.magic.weight": [(32,), 0, None, b"\0" * 128]}))
    case("tensor_wrong_shape", [2, 4], "", dims(64, 32))
    case("split_model", 8, "split", key("split.count", scalar(U16, 3)))
    case("experts", 8, "expert_count", key("llama.expert_count", scalar(U32, 8)))
    case("tokens_more_than_rows", 4, "tokens", lambda g: [
        g.keys.update({"tokenizer.ggml.tokens": array(STR, g.tokens + ["one", "more"])})])
    case("types_shorter_than_tokens", 4, "token_type", key("tokenizer.ggml.token_type", array(I32, [1] * 7)))
    case("type_unknown", 4, "unknown type", key("tokenizer.ggml.token_type", array(I32, [99] * VOCAB)))
    case("token_twice", 4, "appears twice", lambda g: g.keys.update({
        "tokenizer.ggml.tokens": array(STR, [g.tokens[1]] + g.tokens[1:])}))
    case("token_not_utf8", 4, "UTF-8", lambda g: g.keys.update({
        "tokenizer.ggml.tokens": array(STR, [b"\xff\xfe"] + g.tokens[1:])}))
    case("eos_above_vocabulary", 4, "eos_token_id", key("tokenizer.ggml.eos_token_id", scalar(U32, VOCAB)))
    case("merge_of_one", 4, "merge", key("tokenizer.ggml.merges", array(STR, ["hi"])))
    case("pre_tokenizer_unknown", 8, "pre-tokenizer", key("tokenizer.ggml.pre", scalar(STR, "no-such")))

    def sentencepiece(token, scores=VOCAB):
        def change(g):
            tokens = ["<unk>", "<s>", "</s>", token] + [f"t{i}" for i in range(4, VOCAB)]
            g.keys.pop("tokenizer.ggml.merges")
            g.keys.pop("tokenizer.ggml.pre")
            g.keys.update({"tokenizer.ggml.model": scalar(STR, "llama"), "tokenizer.ggml.tokens": array(STR, tokens),
                           "tokenizer.ggml.scores": array(F32, [0.0] * scores),
                           "tokenizer.ggml.token_type": array(I32, [2, 3, 3, 6] + [1] * (VOCAB - 4)),
                           "tokenizer.ggml.unknown_token_id": scalar(U32, 0), "tokenizer.ggml.bos_token_id": scalar(U32, 1),
                           "tokenizer.ggml.eos_token_id": scalar(U32, 2), "tokenizer.ggml.add_space_prefix": scalar(BOOL, 0)})
        return change

    case("byte_token_minus_1", 4, "byte token", sentencepiece("<0x-1>"))
    case("byte_token_zz", 4, "byte token", sentencepiece("<0xZZ>"))
    case("scores_shorter_than_tokens", 4, "scores", sentencepiece("<0x41>", scores=5))
