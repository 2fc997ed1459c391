//! C entry points of tokenizers and streams.

use std::sync::Arc;

use crate::ffi::{call, fail, id_slice, Buf, Ids, Str, INPUT, LIMIT};
use crate::stream::Stream;
use crate::tokenizer::{Mode, Tok};

const MAX_JSON: usize = 256 << 20;

/// # Safety
/// Pointers as in optiq_text.h (this and all functions below).
#[no_mangle]
pub unsafe extern "C" fn ot_tok_load(json: Str, extra: Str, out: *mut *const Tok, err: *mut Buf) -> i32 {
    call(err, || {
        if json.bytes().len() > MAX_JSON {
            return fail(LIMIT, format!("larger than {MAX_JSON} bytes"));
        }
        let tok = Tok::load(json.text("the file")?, extra.text("the list of added tokens")?)?;
        *out = Arc::into_raw(Arc::new(tok));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_tok_free(tok: *const Tok) {
    if !tok.is_null() {
        drop(Arc::from_raw(tok));
    }
}

#[no_mangle]
pub unsafe extern "C" fn ot_tok_encode(tok: *const Tok, text: Str, mode: u32, out: *mut Ids, err: *mut Buf) -> i32 {
    call(err, || {
        let mode = match mode {
            0 => Mode::Plain,
            1 => Mode::WithSpecial,
            2 => Mode::Literal,
            3 => Mode::Guarded,
            _ => return fail(INPUT, "unknown encoding mode"),
        };
        *out = Ids::new((*tok).encode(text.text("the text")?, mode)?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_tok_guard(tok: *const Tok, text: Str, out: *mut Buf, err: *mut Buf) -> i32 {
    call(err, || {
        *out = Buf::new((*tok).guard.apply(text.text("the text")?).into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_tok_decode(
    tok: *const Tok,
    ids: *const u32,
    n: usize,
    skip: i32,
    out: *mut Buf,
    err: *mut Buf,
) -> i32 {
    call(err, || {
        *out = Buf::new((*tok).decode(id_slice(ids, n), skip != 0)?.into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_tok_id_limit(tok: *const Tok) -> u32 {
    (*tok).id_limit
}

#[no_mangle]
pub unsafe extern "C" fn ot_tok_id(tok: *const Tok, token: Str, out: *mut i64, err: *mut Buf) -> i32 {
    call(err, || {
        *out = (*tok).inner.token_to_id(token.text("the token")?).map_or(-1, i64::from);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_tok_bytes(tok: *const Tok, id: u32, out: *mut Buf, err: *mut Buf) -> i32 {
    call(err, || match (*tok).token_bytes(id) {
        Some(bytes) => {
            *out = Buf::new(bytes);
            Ok(())
        }
        None => fail(INPUT, format!("there is no token with id {id}")),
    })
}

/// Bit 0: special, bit 1: control (see control.rs).
#[no_mangle]
pub unsafe extern "C" fn ot_tok_kind(tok: *const Tok, id: u32) -> u32 {
    u32::from((*tok).is_special(id)) | u32::from((*tok).is_control(id)) << 1
}

#[no_mangle]
pub unsafe extern "C" fn ot_stream_new(
    tok: *const Tok,
    skip_special: i32,
    out: *mut *mut Stream,
    err: *mut Buf,
) -> i32 {
    call(err, || {
        Arc::increment_strong_count(tok);
        *out = Box::into_raw(Box::new(Stream::new(Arc::from_raw(tok), skip_special != 0)));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_stream_free(stream: *mut Stream) {
    if !stream.is_null() {
        drop(Box::from_raw(stream));
    }
}

#[no_mangle]
pub unsafe extern "C" fn ot_stream_push(
    stream: *mut Stream,
    ids: *const u32,
    n: usize,
    out: *mut Buf,
    err: *mut Buf,
) -> i32 {
    call(err, || {
        let mut text = String::new();
        for id in id_slice(ids, n) {
            (*stream).push(*id, &mut text)?;
        }
        *out = Buf::new(text.into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_stream_flush(stream: *mut Stream, out: *mut Buf, err: *mut Buf) -> i32 {
    call(err, || {
        let mut text = String::new();
        (*stream).flush(&mut text)?;
        *out = Buf::new(text.into_bytes());
        Ok(())
    })
}
