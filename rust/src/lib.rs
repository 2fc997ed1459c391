//! Tokenizers, chat templates and grammars of optiq.cpp behind a C ABI (include/optiq_text.h).
//!
//! Every exported function catches panics: the tokenizers crate panics on some damaged files. Handles are shared by any
//! number of threads once made, except streams and matchers, which belong to one thread at a time.

mod checked;
mod control;
mod counted;
mod exports_grammar;
mod exports_template;
mod exports_tokenizer;
mod ffi;
mod grammar;
mod growth;
mod guard;
mod py_filters;
mod py_json;
mod py_methods;
mod py_repr;
mod scan;
mod screen;
mod stream;
mod template;
mod token_bytes;
mod tokenizer;
