//! Refuses tokenizers that can blow up text: a failed allocation ends the process and cannot be caught.

use serde_json::Value;

// Real pipelines replace a space by U+2581 (3 bytes) once or twice.
const MAX_GROWTH: usize = 1000;

/// The factor by which the replacements of a normalizer, pre-tokenizer or decoder can make text longer, if it is
/// acceptable.
pub fn check(part: &Value, what: &str) -> Result<(), String> {
    let mut growth = 1usize;
    let mut work = vec![part];
    while let Some(value) = work.pop() {
        match value {
            Value::Array(items) => work.extend(items),
            Value::Object(fields) => {
                let content = fields.get("content").and_then(Value::as_str).map_or(0, str::len);
                let pattern = fields.get("pattern").and_then(|p| p["String"].as_str()).map_or(1, |p| p.len().max(1));
                let prepend = fields.get("prepend").and_then(Value::as_str).map_or(0, str::len);
                let replacement = fields.get("replacement").and_then(Value::as_str).map_or(0, str::len);
                for factor in [content.div_ceil(pattern), prepend, replacement] {
                    growth = growth.saturating_mul(factor.max(1));
                }
                work.extend(fields.values().filter(|v| v.is_array() || v.is_object()));
            }
            _ => {}
        }
    }
    if growth > MAX_GROWTH {
        return Err(format!("the {what} can make text {growth} times as long; the limit is {MAX_GROWTH}"));
    }
    Ok(())
}
