/* The C ABI of the Rust text library: tokenizers, streaming detokenizers, chat templates.
 *
 * Strings are bytes with a length, UTF-8 unless said otherwise, not NUL-terminated. Functions that take `err` write a message
 * there only when the result is not OT_OK (err may be null); outputs are written only on OT_OK. Tokenizers and templates may be
 * shared by any number of threads; a stream belongs to one thread at a time. */
#ifndef OPTIQ_TEXT_H_
#define OPTIQ_TEXT_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct { const uint8_t* ptr; size_t len; } ot_str;        /* borrowed, valid during the call */
typedef struct { uint8_t* ptr; size_t len, cap; } ot_buf;         /* owned by the caller: ot_buf_free */
typedef struct { uint32_t* ptr; size_t len, cap; } ot_ids;        /* owned by the caller: ot_ids_free */

enum ot_status {
  OT_OK = 0,
  OT_INPUT = 1,  /* not UTF-8, bad JSON, or the template fails on these messages */
  OT_PARSE = 2,  /* tokenizer.json or the template cannot be used */
  OT_RAISED = 3, /* the template called raise_exception: err holds exactly its text */
  OT_LIMIT = 4,  /* a size or work limit */
  OT_PANIC = 5   /* a library gave up on damaged data; the message is its own */
};

uint32_t ot_abi_version(void);
void ot_buf_free(ot_buf*); /* null or zeroed is fine; zeroes it */
void ot_ids_free(ot_ids*);
void ot_quiet_panics(void); /* once, at start: panics are reported through the status only */

/* ---- tokenizer ---- */
typedef struct ot_tok ot_tok;
enum ot_mode {
  OT_PLAIN = 0,        /* added tokens in the text become ids */
  OT_WITH_SPECIAL = 1, /* and the post-processor runs (BOS ...) */
  OT_LITERAL = 2,      /* nothing in the text becomes a control token */
  OT_GUARDED = 3       /* text rendered from guarded pieces */
};
/* json: tokenizer.json. extra: empty or {"added_tokens": [AddedToken...], "split_special_tokens": bool}. */
int ot_tok_load(ot_str json, ot_str extra, const ot_tok** out, ot_buf* err);
void ot_tok_free(const ot_tok*);
int ot_tok_encode(const ot_tok*, ot_str text, uint32_t mode, ot_ids* out, ot_buf* err);
int ot_tok_guard(const ot_tok*, ot_str text, ot_buf* out, ot_buf* err);
int ot_tok_decode(const ot_tok*, const uint32_t* ids, size_t n, int skip_special, ot_buf* out, ot_buf* err);
uint32_t ot_tok_id_limit(const ot_tok*);                                /* largest id + 1 */
int ot_tok_id(const ot_tok*, ot_str token, int64_t* out, ot_buf* err);  /* -1: no such token */
int ot_tok_bytes(const ot_tok*, uint32_t id, ot_buf* out, ot_buf* err); /* bytes, may be half a character */
uint32_t ot_tok_kind(const ot_tok*, uint32_t id);                       /* bit 0: special, bit 1: control */

/* ---- streaming detokenizer; keeps its tokenizer alive ---- */
typedef struct ot_stream ot_stream;
int ot_stream_new(const ot_tok*, int skip_special, ot_stream** out, ot_buf* err);
void ot_stream_free(ot_stream*);
int ot_stream_push(ot_stream*, const uint32_t* ids, size_t n, ot_buf* text, ot_buf* err);
int ot_stream_flush(ot_stream*, ot_buf* text, ot_buf* err); /* what is held back; starts anew */

/* ---- chat template ---- */
typedef struct ot_template ot_template;
int ot_template_new(ot_str source, ot_template** out, ot_buf* err);
void ot_template_free(ot_template*);
/* context: JSON object of the request (messages, tools, add_generation_prompt, template arguments), guarded when `guard` is not
 * null; constants: JSON object of the model (bos_token ...), which the context overrides. */
int ot_template_render(const ot_template*, ot_str context, ot_str constants, const ot_tok* guard, int64_t unix_time, ot_buf* out,
                       ot_buf* err);
int ot_template_uses(const ot_template*, ot_str name, int* out, ot_buf* err); /* 1 if the template reads the variable */

/* ---- constrained decoding ---- */
typedef struct ot_grammar ot_grammar; /* a model's tokens arranged for masks: once per model, any number of threads */
typedef struct ot_matcher ot_matcher; /* one answer's state: one thread at a time; keeps its ot_grammar's data alive */
/* end_ids: the ends of text (at least one); vocab_size: of the logits. */
int ot_grammar_new(const ot_tok*, const uint32_t* end_ids, size_t n, uint32_t vocab_size, ot_grammar** out, ot_buf* err);
void ot_grammar_free(ot_grammar*);
int ot_matcher_new(const ot_grammar*, ot_str kind /* json_schema, regex, lark */, ot_str text, ot_matcher** out, ot_buf* err);
void ot_matcher_free(ot_matcher*);
/* Bit i%32 of word i/32: token i may come next. words = (vocab_size + 31) / 32. */
int ot_matcher_mask(ot_matcher*, uint32_t* mask, size_t words, ot_buf* err);
int ot_matcher_accept(ot_matcher*, uint32_t id, ot_buf* err);
int ot_matcher_done(const ot_matcher*); /* only an end of text may follow */

#ifdef __cplusplus
}
#endif

#endif /* OPTIQ_TEXT_H_ */
