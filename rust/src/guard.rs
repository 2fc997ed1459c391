//! Keeps control tokens that somebody wrote into a message from becoming control tokens of the prompt.
//!
//! Before rendering, U+FDD0 (a noncharacter) is put after the first character of every control token found in untrusted
//! strings; the guarded encoding (tokenizer.rs) splits the prompt at control tokens first and only then removes the
//! mark.

use aho_corasick::AhoCorasick;
use serde_json::{Map, Value};

pub const MARK: char = '\u{FDD0}';

pub struct Guard {
    tokens: Vec<String>,
    find: Option<AhoCorasick>,
    longest: usize, // bytes
}

impl Guard {
    pub fn new(mut tokens: Vec<String>) -> Guard {
        tokens.sort();
        tokens.dedup();
        let longest = tokens.iter().map(String::len).max().unwrap_or(0);
        let find = if tokens.is_empty() { None } else { AhoCorasick::new(&tokens).ok() };
        Guard { tokens, find, longest }
    }

    /// `text` with every control token in it broken by MARK. A control token of one character becomes U+FFFD.
    pub fn apply(&self, text: &str) -> String {
        let text = text.replace(MARK, "\u{FFFD}");
        let mut cuts = Vec::new(); // byte positions of the marks
        let mut gone = Vec::new(); // starts of control tokens of one character
        if let Some(find) = &self.find {
            for m in find.find_overlapping_iter(&text) {
                let first = first_char_len(&text[m.start()..]);
                if m.start() + first == m.end() {
                    gone.push(m.start());
                } else {
                    cuts.push(m.start() + first);
                }
            }
        }
        self.tail_cuts(&text, &mut cuts);
        self.tail_cuts(text.trim_end(), &mut cuts);
        if cuts.is_empty() && gone.is_empty() {
            return text;
        }
        cuts.sort_unstable();
        cuts.dedup();
        gone.sort_unstable();
        gone.dedup();
        let mut out = String::with_capacity(text.len() + 3 * cuts.len());
        let (mut cuts, mut gone) = (cuts.into_iter().peekable(), gone.into_iter().peekable());
        for (at, c) in text.char_indices() {
            if cuts.next_if_eq(&at).is_some() {
                out.push(MARK);
            }
            out.push(if gone.next_if_eq(&at).is_some() { '\u{FFFD}' } else { c });
        }
        if cuts.next().is_some() {
            out.push(MARK);
        }
        out
    }

    // A string may end in the first half of a control token whose second half starts the next string.
    fn tail_cuts(&self, text: &str, cuts: &mut Vec<usize>) {
        let from = text.len().saturating_sub(self.longest);
        for (at, c) in text.char_indices().rev().take_while(|(at, _)| *at >= from) {
            let tail = &text[at..];
            let i = self.tokens.partition_point(|t| t.as_str() < tail);
            if self.tokens[i..].first().is_some_and(|t| t.starts_with(tail)) {
                cuts.push(at + c.len_utf8());
            }
        }
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(s) => *s = self.apply(s),
            Value::Array(items) => items.iter_mut().for_each(|v| self.value(v)),
            Value::Object(map) => self.object(map, &[]),
            _ => {}
        }
    }

    fn object(&self, map: &mut Map<String, Value>, keep: &[&str]) {
        let old = std::mem::take(map);
        for (key, mut value) in old {
            if !keep.contains(&key.as_str()) {
                self.value(&mut value);
            }
            map.insert(self.apply(&key), value);
        }
    }

    /// Guards a template's whole context, except what the model itself said: templates parse the markup in assistant
    /// turns.
    pub fn context(&self, context: &mut Map<String, Value>) {
        for (key, value) in context.iter_mut() {
            match value {
                Value::Array(messages) if key == "messages" => {
                    for message in messages {
                        match message {
                            Value::Object(m)
                                if matches!(m.get("role").and_then(Value::as_str), Some("assistant" | "model")) =>
                            {
                                self.object(m, &["content", "reasoning_content", "reasoning", "thinking"]);
                            }
                            other => self.value(other),
                        }
                    }
                }
                other => self.value(other),
            }
        }
    }
}

fn first_char_len(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}
