//! The `tojson` filter of transformers: json.dumps(x, ensure_ascii=False, indent=None, separators=None,
//! sort_keys=False).

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::guard::MARK;
use crate::py_repr::{charge, check_depth, number};

const MAX_INDENT: usize = 16;

struct Writer<'a, 't, 'e> {
    state: &'a State<'t, 'e>,
    ascii: bool,
    sort: bool,
    indent: Option<String>,
    item: String,
    key: String,
    out: String,
}

pub fn tojson(
    state: &State,
    value: &Value,
    ascii: Option<bool>,
    indent: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let ascii = match ascii {
        Some(ascii) => ascii,
        None => kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    let indent = match indent {
        Some(indent) => Some(indent),
        None => kwargs.get::<Option<Value>>("indent")?,
    };
    let separators = kwargs.get::<Option<Value>>("separators")?.filter(|s| !s.is_none());
    let sort = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let indent = indent.filter(|i| !i.is_none()).map(|i| indent_text(&i)).transpose()?;
    let (item, key) = match separators {
        Some(pair) => (separator(&pair, 0)?, separator(&pair, 1)?),
        None => ((if indent.is_some() { "," } else { ", " }).to_string(), ": ".to_string()),
    };
    let mut writer = Writer { state, ascii, sort, indent, item, key, out: String::new() };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

fn bad(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"))
}

fn indent_text(indent: &Value) -> Result<String, Error> {
    let text = match indent.as_str() {
        Some(text) => text.to_string(),
        None => " ".repeat(
            indent.as_i64().ok_or_else(|| bad("indent must be a number or a string"))?.clamp(0, 1 << 20) as usize,
        ),
    };
    if text.len() > MAX_INDENT {
        return Err(bad(&format!("indent above {MAX_INDENT}")));
    }
    Ok(text)
}

fn separator(pair: &Value, i: usize) -> Result<String, Error> {
    let text =
        pair.get_item_by_index(i)?.as_str().map(String::from).ok_or_else(|| bad("separators must be two strings"))?;
    if text.len() > MAX_INDENT {
        return Err(bad("a separator is too long"));
    }
    Ok(text)
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        check_depth(depth)?;
        let before = self.out.len();
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&json_number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or("")),
            ValueKind::Seq | ValueKind::Iterable => {
                self.out.push('[');
                let mut n = 0;
                for item in value.try_iter()?.checked() {
                    self.begin_item(n, depth);
                    self.value(&item?, depth + 1)?;
                    n += 1;
                }
                self.end(n, depth, ']');
            }
            ValueKind::Map => {
                let mut keys = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                if self.sort {
                    keys.sort();
                }
                self.out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.begin_item(i, depth);
                    let name = match key.kind() {
                        ValueKind::String => key.as_str().unwrap_or("").to_string(),
                        ValueKind::None => "null".into(),
                        ValueKind::Bool => (if key.is_true() { "true" } else { "false" }).into(),
                        ValueKind::Number => json_number(key),
                        kind => return Err(bad(&format!("a key is {kind}"))),
                    };
                    self.string(&name);
                    self.out.push_str(&self.key);
                    self.value(&value.get_item(key)?, depth + 1)?;
                }
                self.end(keys.len(), depth, '}');
            }
            kind => return Err(bad(&format!("a value is {kind}, which JSON cannot hold"))),
        }
        charge(self.state, self.out.len() - before)
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            self.out.push_str(&indent.repeat(depth));
        }
    }

    fn begin_item(&mut self, i: usize, depth: usize) {
        if i > 0 {
            self.out.push_str(&self.item);
        }
        self.new_line(depth + 1);
    }

    fn end(&mut self, n: usize, depth: usize, bracket: char) {
        if n > 0 {
            self.new_line(depth);
        }
        self.out.push(bracket);
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 => self.out.push_str(&format!("\\u{:04x}", c as u32)),
                c if self.ascii && !c.is_ascii() && c != MARK => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        text => text.into(),
    }
}
