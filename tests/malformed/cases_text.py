"""tokenizer.json and chat templates."""

import copy
import json
import os

from corpus_base import GENERATE, sparse


def tokenizer_cases(c):
    base = c.read_json("tokenizer.json")

    def case(name, exits, change, substring="tokenizer.json"):
        value = copy.deepcopy(base)
        change(value)
        c.model("tokenizer", name, exits, substring, {"tokenizer.json": json.dumps(value)}, command=GENERATE)

    def text(name, exits, contents, substring="tokenizer.json"):
        c.model("tokenizer", name, exits, substring, {"tokenizer.json": contents}, command=GENERATE)

    refused = [2, 4, 5, 8]  # which of them is the tokenizer library's business; that it is refused in a line is ours
    either = [0] + refused
    text("empty_file", [4], "")
    text("empty_object", refused, "{}")
    text("array", refused, "[]")
    text("truncated", [4], json.dumps(base)[:2000])
    text("not_utf8", [2, 4], b'{"version": "\xff"}')
    text("deep", refused, '{"added_tokens": ' + "[" * 100000)
    text("lfs_pointer", [4], "version https://git-lfs.github.com/spec/v1\n", "git lfs pull")
    c.model("tokenizer", "missing", [3], "tokenizer", without=["tokenizer.json"], command=GENERATE)
    path = c.model("tokenizer", "above_the_limit", [5], "tokenizer.json", without=["tokenizer.json"], command=GENERATE)
    sparse(os.path.join(path, "tokenizer.json"), 300_000_000, b"{")

    vocab = lambda t: t["model"]["vocab"]
    case("model_type_unknown", refused, lambda t: t["model"].update(type="Oracle"))
    case("vocab_empty", refused, lambda t: t["model"].update(vocab={}))
    case("vocab_id_string", refused, lambda t: vocab(t).update({"!": "0"}))
    case("vocab_id_negative", refused, lambda t: vocab(t).update({"!": -1}))
    case("vocab_id_2_pow_32", refused, lambda t: vocab(t).update({"!": 2**32}))
    case("vocab_id_2_pow_31", refused, lambda t: vocab(t).update({"h": 2**31}), "")
    case("vocab_id_above_embedding", refused, lambda t: vocab(t).update({"h": 5000}), "")
    case("vocab_ids_twice", either, lambda t: vocab(t).update({"!": 1}), "")
    case("vocab_gap", either, lambda t: vocab(t).pop("!"), "")
    case("merge_of_unknown", refused, lambda t: t["model"]["merges"].insert(0, ["@@nowhere", "@@none"]))
    case("merge_of_three", refused, lambda t: t["model"]["merges"].insert(0, ["a", "b", "c"]))
    case("merge_number", refused, lambda t: t["model"]["merges"].insert(0, 7))
    case("regex_invalid", refused, lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(("}))
    case("regex_bomb", either, lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(a+)+$"}), "")
    case("regex_repetition_bomb", either,
         lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": "(((a{1,99}){1,99}){1,99}){1,99}"}), "")
    case("normalizer_unknown", refused, lambda t: t.update(normalizer={"type": "Rot13"}))
    case("pre_tokenizer_unknown", refused, lambda t: t.update(pre_tokenizer={"type": "Rot13"}))
    case("decoder_unknown", refused, lambda t: t.update(decoder={"type": "Rot13"}))
    case("charsmap_garbage", refused, lambda t: t.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}))
    case("added_token_without_id", refused, lambda t: t["added_tokens"][0].pop("id"))
    # The tokenizers library takes the position, not the number in the file.
    case("added_token_id_2_pow_31", either, lambda t: t["added_tokens"][0].update(id=2**31), "")
    case("added_token_empty", either, lambda t: t["added_tokens"][0].update(content=""), "")
    case("processor_of_unknown_token", either,
         lambda t: t.update(post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}],
                                            "pair": [], "special_tokens": {}}), "")

    def overlapping(t):
        for i, name in enumerate(("<|eot", "<|eot_id|><|eot_id|>", "<")):
            t["added_tokens"].append(dict(t["added_tokens"][0], id=10 + i, content=name))

    case("added_tokens_overlap", either, overlapping, "")


def template_cases(c):
    config = c.read_json("tokenizer_config.json")
    config.pop("chat_template", None)
    plain = {"tokenizer_config.json": json.dumps(config)}

    def case(name, exits, template, substring="template"):
        c.model("template", name, exits, substring, dict(plain, **{"chat_template.jinja": template}), command=GENERATE)

    case("syntax_error", [2, 4], "{% for m in messages %}{{ m. }}{% endfor %}")
    case("block_not_closed", [2, 4], "{% for m in messages %}{{ m['content'] }}")
    case("expression_not_closed", [2, 4], "{{ messages")
    case("unknown_filter", [2, 4], "{{ messages | frobnicate }}")
    case("unknown_function", [2, 4], "{{ frobnicate() }}")
    case("raise_exception", [2, 4], "{{ raise_exception('no such\nrole') }}", "no such")
    case("macro_recursion", [2, 4, 5], "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")
    case("range_10_pow_12", [2, 4, 5], "{% for i in range(1000000000000) %}x{% endfor %}")
    case("range_list", [2, 4, 5], "{{ range(1000000000) | list | length }}")
    case("nested_loops", [2, 4, 5], "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}x"
         "{% endfor %}{% endfor %}{% endfor %}")
    case("string_product", [2, 4, 5], "{{ 'x' * 1000000000000 }}")
    case("string_doubling", [2, 4, 5], "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}"
         "{% endfor %}{{ ns.s }}")
    case("namespace_nesting", [0, 2, 4, 5], "{% set ns = namespace(v=[]) %}{% for i in range(100000) %}{% set ns.v = [ns.v] %}"
         "{% endfor %}{{ ns.v }}", "")
    case("parentheses", [2, 4, 5], "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}")
    case("if_nesting", [0, 2, 4, 5], "{% if true %}" * 5000 + "x" + "{% endif %}" * 5000, "")
    case("filter_chain", [0, 2, 4, 5], "{{ 'x'" + " | upper" * 100000 + " }}", "")
    case("include", [2, 4], "{% include '/etc/hostname' %}")
    case("import", [2, 4], "{% import '/etc/hostname' as x %}{{ x }}")
    case("extends", [2, 4], "{% extends 'x' %}")
    case("dunder_class", [0, 2, 4], "{{ ''.__class__.__mro__[1].__subclasses__() }}", "")
    case("cycle_of_nothing", [0, 2, 4], "{% for m in messages %}{{ loop.cycle() }}{% endfor %}", "")
    case("not_utf8", [2, 4], b"{{ messages }}\xff\xfe", "chat_template")
    case("above_the_limit", [5], "x" * ((1 << 20) + 1), "chat_template")
    case("empty_prompt", [0, 2, 4], "", "")
    broken = dict(config, chat_template={"default": 3})
    c.model("template", "wrong_type", [2, 4], "chat_template", {"tokenizer_config.json": json.dumps(broken)},
            without=["chat_template.jinja"], command=GENERATE)


def add_cases(c):
    tokenizer_cases(c)
    template_cases(c)
