//! C entry points of constrained decoding.

use crate::ffi::{call, fail, id_slice, Buf, Str, INPUT};
use crate::grammar::{GrammarEnv, GrammarMatcher};
use crate::tokenizer::Tok;

/// # Safety
/// Pointers as in optiq_text.h (this and all functions below).
#[no_mangle]
pub unsafe extern "C" fn ot_grammar_new(
    tok: *const Tok,
    end_ids: *const u32,
    n: usize,
    vocab_size: u32,
    out: *mut *mut GrammarEnv,
    err: *mut Buf,
) -> i32 {
    call(err, || {
        *out = Box::into_raw(Box::new(GrammarEnv::new(&*tok, id_slice(end_ids, n), vocab_size)?));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_grammar_free(env: *mut GrammarEnv) {
    if !env.is_null() {
        drop(Box::from_raw(env));
    }
}

#[no_mangle]
pub unsafe extern "C" fn ot_matcher_new(
    env: *const GrammarEnv,
    kind: Str,
    text: Str,
    out: *mut *mut GrammarMatcher,
    err: *mut Buf,
) -> i32 {
    call(err, || {
        *out = Box::into_raw(Box::new((*env).matcher(kind.text("the kind")?, text.text("the grammar")?)?));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_matcher_free(matcher: *mut GrammarMatcher) {
    if !matcher.is_null() {
        drop(Box::from_raw(matcher));
    }
}

#[no_mangle]
pub unsafe extern "C" fn ot_matcher_mask(matcher: *mut GrammarMatcher, mask: *mut u32, words: usize, err: *mut Buf) -> i32 {
    call(err, || {
        if mask.is_null() {
            return fail(INPUT, "no mask");
        }
        (*matcher).mask(std::slice::from_raw_parts_mut(mask, words))
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_matcher_accept(matcher: *mut GrammarMatcher, id: u32, err: *mut Buf) -> i32 {
    call(err, || (*matcher).accept(id))
}

#[no_mangle]
pub unsafe extern "C" fn ot_matcher_done(matcher: *const GrammarMatcher) -> i32 {
    i32::from((*matcher).done())
}
