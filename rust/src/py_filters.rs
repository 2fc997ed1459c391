//! Filters, tests and functions that behave as in Jinja2 with transformers' additions.

use std::cell::Cell;
use std::ffi::CString;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use crate::{checked, py_json, py_methods, py_repr, screen};

/// Marks an error that the template itself raised; the rest of the detail is its text.
pub const RAISED: &str = "\u{1}raised\u{1}";

thread_local! {
    static NOW: Cell<i64> = const { Cell::new(0) };
}

/// The time that strftime_now shows in templates rendered by this thread, in seconds since 1970.
pub fn set_now(unix_time: i64) {
    NOW.with(|now| now.set(unix_time));
}

pub fn install(env: &mut Environment<'static>) {
    env.set_formatter(|out, state, value| match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&py_repr::to_str(state, value)?).map_err(Error::from),
    });
    env.set_unknown_method_callback(py_methods::unknown_method);
    env.add_filter("tojson", py_json::tojson);
    env.add_filter("string", |state: &State, value: &Value| py_repr::to_str(state, value));
    env.add_filter("trim", trim);
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_test("iterable", |v: &Value| v.is_undefined() || is_container(v) || v.kind() == ValueKind::Iterable);
    // Slices and sums of lists are lazy here and lists in Python.
    env.add_test("sequence", |v: &Value| v.is_undefined() || is_container(v) || v.kind() == ValueKind::Iterable);
    env.add_test("lower", |state: &State, v: &Value| cased(state, v, char::is_lowercase, char::is_uppercase));
    env.add_test("upper", |state: &State, v: &Value| cased(state, v, char::is_uppercase, char::is_lowercase));
    env.add_function(screen::CHECKED, checked::checked);
    env.add_function("raise_exception", raise_exception);
    env.add_function("strftime_now", strftime_now);
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    env.add_function("cycler", minijinja_contrib::globals::cycler);
}

// str.islower and str.isupper: at least one letter of the case and none of the other.
fn cased(state: &State, value: &Value, case: fn(char) -> bool, other: fn(char) -> bool) -> Result<bool, Error> {
    let text = py_repr::to_str(state, value)?;
    py_repr::charge(state, text.len())?;
    Ok(text.chars().any(case) && !text.chars().any(other))
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
}

fn trim(state: &State, value: &Value, chars: Option<&str>) -> Result<String, Error> {
    let text = py_repr::to_str(state, value)?;
    py_repr::charge(state, text.len())?;
    Ok(py_methods::strip(&text, chars, true, true).to_string())
}

fn default_of(default: Option<Value>, kwargs: &Kwargs, fallback: Value) -> Result<Value, Error> {
    Ok(match default {
        Some(default) => default,
        None => kwargs.get::<Option<Value>>("default")?.unwrap_or(fallback),
    })
}

// int(value), else int(float(value)), else the default.
fn int(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default_of(default, &kwargs, Value::from(0))?;
    kwargs.assert_all_used()?;
    let from_float = |f: f64| if f.abs() < 1e38 { Value::from(f as i128) } else { default.clone() };
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => f64::try_from(value.clone()).map_or_else(|_| default.clone(), from_float),
        ValueKind::String => {
            let text = py_methods::strip(value.as_str().unwrap_or(""), None, true, true).replace('_', "");
            match text.parse::<i128>() {
                Ok(i) => Value::from(i),
                Err(_) => text.parse::<f64>().map_or_else(|_| default.clone(), from_float),
            }
        }
        _ => default,
    })
}

fn float(value: &Value, default: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let default = default_of(default, &kwargs, Value::from(0.0))?;
    kwargs.assert_all_used()?;
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).map_or(default, Value::from),
        ValueKind::String => {
            let text = py_methods::strip(value.as_str().unwrap_or(""), None, true, true);
            text.parse::<f64>().map_or(default, Value::from)
        }
        _ => default,
    })
}

fn raise_exception(state: &State, message: &Value) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{}", py_repr::to_str(state, message)?)))
}

// Local time, as datetime.now().strftime(format).
fn strftime_now(format: &str) -> Result<String, Error> {
    let bad = |why: &str| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {why}"));
    if format.len() > 256 || format.bytes().any(|b| b.is_ascii_digit()) {
        return Err(bad("unusual format"));
    }
    let format = CString::new(format).map_err(|_| bad("the format holds a NUL"))?;
    let now: libc::time_t = NOW.with(Cell::get);
    let mut buffer = [0u8; 4096];
    // SAFETY: all pointers are to live objects of the right size; strftime writes at most the buffer's length.
    let n = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut parts).is_null() {
            return Err(bad("the time is out of range"));
        }
        libc::strftime(buffer.as_mut_ptr().cast(), buffer.len(), format.as_ptr(), &parts)
    };
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}
