//! C entry points of chat templates.

use crate::ffi::{call, Buf, Str};
use crate::template::Template;
use crate::tokenizer::Tok;

/// # Safety
/// Pointers as in optiq_text.h (this and all functions below).
#[no_mangle]
pub unsafe extern "C" fn ot_template_new(source: Str, out: *mut *mut Template, err: *mut Buf) -> i32 {
    call(err, || {
        *out = Box::into_raw(Box::new(Template::new(source.text("the template")?)?));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_template_free(template: *mut Template) {
    if !template.is_null() {
        drop(Box::from_raw(template));
    }
}

#[no_mangle]
pub unsafe extern "C" fn ot_template_render(
    template: *const Template,
    context: Str,
    constants: Str,
    guard: *const Tok,
    unix_time: i64,
    out: *mut Buf,
    err: *mut Buf,
) -> i32 {
    call(err, || {
        let guard = guard.as_ref().map(|tok| &tok.guard);
        let text =
            (*template).render(context.text("the context")?, constants.text("the constants")?, guard, unix_time)?;
        *out = Buf::new(text.into_bytes());
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn ot_template_uses(template: *const Template, name: Str, out: *mut i32, err: *mut Buf) -> i32 {
    call(err, || {
        *out = i32::from((*template).uses(name.text("the name")?));
        Ok(())
    })
}
