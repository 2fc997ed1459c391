//! The C side's strings, buffers and status codes, and the wrapper that turns panics into a status.

use std::panic::{catch_unwind, AssertUnwindSafe};

pub const OK: i32 = 0;
pub const INPUT: i32 = 1;
pub const PARSE: i32 = 2;
pub const RAISED: i32 = 3;
pub const LIMIT: i32 = 4;
pub const PANIC: i32 = 5;

/// Borrowed bytes, valid during the call.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Str {
    ptr: *const u8,
    len: usize,
}

/// Bytes owned by the caller until `ot_buf_free`.
#[repr(C)]
pub struct Buf {
    ptr: *mut u8,
    len: usize,
    cap: usize,
}

/// Token ids owned by the caller until `ot_ids_free`.
#[repr(C)]
pub struct Ids {
    ptr: *mut u32,
    len: usize,
    cap: usize,
}

#[derive(Debug)]
pub struct Failure {
    pub status: i32,
    pub message: String,
}

pub type Outcome<T> = Result<T, Failure>;

pub fn fail<T>(status: i32, message: impl Into<String>) -> Outcome<T> {
    Err(Failure { status, message: message.into() })
}

impl Str {
    /// # Safety
    /// `ptr` points to `len` readable bytes, or `len` is 0.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.len == 0 {
            return &[];
        }
        std::slice::from_raw_parts(self.ptr, self.len)
    }

    /// # Safety
    /// As `bytes`.
    pub unsafe fn text<'a>(self, what: &str) -> Outcome<&'a str> {
        std::str::from_utf8(self.bytes())
            .or_else(|e| fail(INPUT, format!("{what} is not UTF-8 at byte {}", e.valid_up_to())))
    }
}

impl Buf {
    pub fn new(text: Vec<u8>) -> Buf {
        let mut text = std::mem::ManuallyDrop::new(text);
        Buf { ptr: text.as_mut_ptr(), len: text.len(), cap: text.capacity() }
    }
}

impl Ids {
    pub fn new(ids: Vec<u32>) -> Ids {
        let mut ids = std::mem::ManuallyDrop::new(ids);
        Ids { ptr: ids.as_mut_ptr(), len: ids.len(), cap: ids.capacity() }
    }
}

/// # Safety
/// `ids` points to `n` readable values, or `n` is 0.
pub unsafe fn id_slice<'a>(ids: *const u32, n: usize) -> &'a [u32] {
    if n == 0 {
        return &[];
    }
    std::slice::from_raw_parts(ids, n)
}

fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown")
}

/// Runs `body`; a failure or a panic becomes a status and a message in `err` (which may be null).
///
/// # Safety
/// `err` is null or points to a writable Buf, whose old contents are not freed.
pub unsafe fn call(err: *mut Buf, body: impl FnOnce() -> Outcome<()>) -> i32 {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OK,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure { status: PANIC, message: panic_text(payload.as_ref()).to_string() },
    };
    if !err.is_null() {
        *err = Buf::new(failure.message.into_bytes());
    }
    failure.status
}

/// # Safety
/// `buf` is null or holds a buffer of this library (or zeros).
#[no_mangle]
pub unsafe extern "C" fn ot_buf_free(buf: *mut Buf) {
    if !buf.is_null() && !(*buf).ptr.is_null() {
        drop(Vec::from_raw_parts((*buf).ptr, (*buf).len, (*buf).cap));
        *buf = Buf { ptr: std::ptr::null_mut(), len: 0, cap: 0 };
    }
}

/// # Safety
/// `ids` is null or holds ids of this library (or zeros).
#[no_mangle]
pub unsafe extern "C" fn ot_ids_free(ids: *mut Ids) {
    if !ids.is_null() && !(*ids).ptr.is_null() {
        drop(Vec::from_raw_parts((*ids).ptr, (*ids).len, (*ids).cap));
        *ids = Ids { ptr: std::ptr::null_mut(), len: 0, cap: 0 };
    }
}

/// Panics are reported through the status; without this call they are also printed to stderr.
#[no_mangle]
pub extern "C" fn ot_quiet_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

#[no_mangle]
pub extern "C" fn ot_abi_version() -> u32 {
    1
}
