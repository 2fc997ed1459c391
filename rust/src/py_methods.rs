//! Methods of Python's str and dict that templates use and the engine lacks, or has with other whitespace rules.

use minijinja::value::{from_args, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use crate::py_repr::charge;

// Wider fields than this are refused: str.format allocates them before anything is charged.
const MAX_FIELD: usize = 10_000;

/// str.isspace for one character: Unicode white space and the separators U+001C to U+001F.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

pub fn strip<'a>(text: &'a str, chars: Option<&str>, left: bool, right: bool) -> &'a str {
    let drop = |c: char| chars.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if left { text.trim_start_matches(drop) } else { text };
    if right {
        text.trim_end_matches(drop)
    } else {
        text
    }
}

pub fn unknown_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map && method == "copy" {
        // A new map even of a namespace, which nothing may hold (screen.rs).
        let pairs = value.try_iter()?.checked().map(|key| key.and_then(|k| Ok((k.clone(), value.get_item(&k)?))));
        return Ok(Value::from_pairs(pairs.collect::<Result<Vec<_>, Error>>()?));
    }
    // Methods that look at every item of a list, their own or the one they are given.
    for list in std::iter::once(value).chain(args).filter(|v| v.kind() != ValueKind::String) {
        charge(state, list.len().unwrap_or(0).saturating_mul(16))?;
    }
    if let (ValueKind::String, Some(text)) = (value.kind(), value.as_str()) {
        if let Some(result) = string_method(state, text, method, args)? {
            return Ok(result);
        }
    }
    if value.kind() == ValueKind::Seq {
        match method {
            "copy" => return Ok(value.clone()),
            "index" => {
                let (what,): (&Value,) = from_args(args)?;
                for (i, item) in value.try_iter()?.checked().enumerate() {
                    charge(state, 0)?;
                    if item? == *what {
                        return Ok(Value::from(i));
                    }
                }
                return Err(Error::new(ErrorKind::InvalidOperation, "index: the value is not in the list"));
            }
            _ => {}
        }
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

fn string_method(state: &State, text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    charge(state, text.len())?;
    let value = match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, method != "rstrip", method != "lstrip"))
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            split_lines(text, keep.unwrap_or(false)).into_iter().collect()
        }
        "format" => {
            check_fields(state, text)?;
            return Ok(None);
        }
        "split" => {
            charge(state, text.len().saturating_mul(16))?; // up to one value per byte
            return Ok(None);
        }
        "removeprefix" => {
            let (part,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(part).unwrap_or(text))
        }
        "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(part).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (part,): (&str,) = from_args(args)?;
            if part.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
            }
            let found = if method == "partition" { text.split_once(part) } else { text.rsplit_once(part) };
            let triple = match found {
                Some((before, after)) => [before, part, after],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(triple.map(Value::from)))
        }
        "rsplit" => {
            let (separator, count): (Option<&str>, Option<i64>) = from_args(args)?;
            rsplit(text, separator, count.unwrap_or(-1))?
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(args)?;
            let at = if method == "index" { text.find(part) } else { text.rfind(part) };
            let at = at.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "substring not found"))?;
            Value::from(text[..at].chars().count())
        }
        "zfill" | "center" | "ljust" | "rjust" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            Value::from(pad(text, method, width, fill)?)
        }
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "swapcase" => text
            .chars()
            .flat_map(
                |c| if c.is_uppercase() { c.to_lowercase().collect::<Vec<_>>() } else { c.to_uppercase().collect() },
            )
            .collect::<String>()
            .into(),
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn split_lines(text: &str, keep: bool) -> Vec<Value> {
    const ENDS: &[char] =
        &['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(ENDS) {
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(Value::from(&rest[..if keep { end } else { at }]));
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    lines
}

fn rsplit(text: &str, separator: Option<&str>, count: i64) -> Result<Value, Error> {
    let limit = if count < 0 { usize::MAX } else { (count as usize).saturating_add(1) };
    let mut parts: Vec<Value> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => text.rsplitn(limit, separator).map(Value::from).collect(),
        None => {
            let mut parts = Vec::new();
            let mut rest = strip(text, None, false, true);
            while !rest.is_empty() {
                let word = if parts.len() + 1 >= limit {
                    0
                } else {
                    rest.rfind(is_space).map_or(0, |at| at + space_len(&rest[at..]))
                };
                let part = if word == 0 { strip(rest, None, true, true) } else { &rest[word..] };
                if !part.is_empty() {
                    parts.push(Value::from(part));
                }
                rest = strip(&rest[..word], None, false, true);
            }
            parts
        }
    };
    parts.reverse();
    Ok(Value::from(parts))
}

fn space_len(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

fn pad(text: &str, method: &str, width: i64, fill: Option<&str>) -> Result<String, Error> {
    if width > MAX_FIELD as i64 {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("{method}: a width above {MAX_FIELD}")));
    }
    let missing = (width.max(0) as usize).saturating_sub(text.chars().count());
    if method == "zfill" {
        let sign = usize::from(text.starts_with(['+', '-']));
        return Ok(format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..]));
    }
    let fill = fill.unwrap_or(" ");
    if fill.chars().count() != 1 {
        return Err(Error::new(ErrorKind::InvalidOperation, "the fill must be one character"));
    }
    let left = match method {
        "ljust" => 0,
        "rjust" => missing,
        _ => missing / 2 + (missing & width as usize & 1), // CPython's rounding
    };
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
}

fn check_fields(state: &State, format: &str) -> Result<(), Error> {
    for digits in format.split(|c: char| !c.is_ascii_digit()) {
        if !digits.is_empty() && digits.parse::<usize>().map_or(true, |n| n > MAX_FIELD) {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("format: a width above {MAX_FIELD}")));
        }
        charge(state, digits.parse().unwrap_or(0))?;
    }
    Ok(())
}
