//! Values as Python's str() and repr() print them.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

const MAX_DEPTH: usize = 100;

/// str(value): what `{{ value }}` prints.
pub fn to_str(state: &State, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or("").to_string()),
        _ => {
            let mut out = String::new();
            write_repr(state, value, &mut out, 0)?;
            Ok(out)
        }
    }
}

/// repr of a float: shortest digits, exponent outside 1e-4 <= |f| < 1e16.
pub fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let text = format!("{value:?}"); // the same thresholds, but the exponent has neither sign nor padding
    match text.split_once('e') {
        Some((mantissa, exponent)) => format!("{mantissa}e{:+03}", exponent.parse::<i32>().unwrap_or(0)),
        None => text,
    }
}

/// A number as Python prints it; integers of any width.
pub fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

fn write_repr(state: &State, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    let before = out.len();
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => write_string(value.as_str().unwrap_or(""), out),
        ValueKind::Seq => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut n = 0;
            for item in value.try_iter()?.checked() {
                if n > 0 {
                    out.push_str(", ");
                }
                write_repr(state, &item?, out, depth + 1)?;
                n += 1;
            }
            out.push_str(match (tuple, n) {
                (true, 1) => ",)",
                (true, _) => ")",
                _ => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                if i > 0 {
                    out.push_str(", ");
                }
                write_repr(state, &key, out, depth + 1)?;
                out.push_str(": ");
                write_repr(state, &value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Iterable => {
            out.push('[');
            for (i, item) in value.try_iter()?.checked().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_repr(state, &item?, out, depth + 1)?;
            }
            out.push(']');
        }
        _ => out.push_str(&value.to_string()),
    }
    charge(state, out.len() - before)
}

pub fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "values are nested too deeply"));
    }
    Ok(())
}

/// Pays for `bytes` of work or memory: own filters are not metered by the engine.
pub fn charge(state: &State, bytes: usize) -> Result<(), Error> {
    state.consume_fuel(1 + bytes as u64 / 64)
}

fn write_string(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            crate::guard::MARK => out.push(c),
            c if printable(c) => out.push(c),
            c if (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push_str(&format!("\\U{:08x}", c as u32)),
        }
    }
    out.push(quote);
}

// str.isprintable, by the standard library's table; escape_debug escapes combining marks only at the start of a string.
fn printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let mut pair = String::from("a");
    pair.push(c);
    pair.escape_debug().nth(1) == Some(c)
}
