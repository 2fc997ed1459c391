//! Cuts a template into text and tags, and the tags into tokens. Just enough of the grammar for screen.rs; what it
//! misreads, the engine's own parser still judges.

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Word,   // identifiers, keywords, numbers
    Text,   // a string literal
    Symbol, // one character, or == != <= >= // **
}

#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub begin: usize, // byte offset in the source
}

impl Token<'_> {
    pub fn end(&self) -> usize {
        self.begin + self.text.len()
    }
    pub fn is(&self, text: &str) -> bool {
        self.kind != Kind::Text && self.text == text
    }
}

pub struct Tag<'a> {
    pub statement: bool, // {% %}, else {{ }}
    pub tokens: Vec<Token<'a>>,
    pub end: usize, // byte offset of the closing mark (of its '-' or '+' if it has one)
}

/// All tags outside comments and raw blocks. An unfinished tag ends the list.
pub fn tags(source: &str) -> Vec<Tag<'_>> {
    let mut tags: Vec<Tag> = Vec::new();
    let mut at = 0;
    while let Some(open) = source[at..].find('{').map(|i| at + i) {
        let (close, statement) = match source.as_bytes().get(open + 1) {
            Some(b'#') => match source[open..].find("#}") {
                Some(i) => {
                    at = open + i + 2;
                    continue;
                }
                None => break,
            },
            Some(b'%') => ("%}", true),
            Some(b'{') => ("}}", false),
            _ => {
                at = open + 1;
                continue;
            }
        };
        let Some((tag, after)) = tag(source, open + 2, close, statement) else { break };
        at = after;
        let raw = statement && tag.tokens.len() == 1 && tag.tokens[0].is("raw");
        tags.push(tag);
        if raw {
            match end_of_raw(source, at) {
                Some(end) => at = end,
                None => break,
            }
        }
    }
    tags
}

fn tag<'a>(source: &'a str, begin: usize, close: &str, statement: bool) -> Option<(Tag<'a>, usize)> {
    let mut at = begin;
    if source[at..].starts_with(['-', '+']) {
        at += 1;
    }
    let mut tokens: Vec<Token> = Vec::new();
    let mut depth = 0usize;
    loop {
        let rest = &source[at..];
        let c = rest.chars().next()?;
        if depth == 0 || close == "%}" {
            if rest.starts_with(close) {
                return Some((Tag { statement, tokens, end: at }, at + 2));
            }
            if matches!(c, '-' | '+') && rest[1..].starts_with(close) {
                return Some((Tag { statement, tokens, end: at }, at + 3));
            }
        }
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        let (kind, len) = match c {
            '"' | '\'' => (Kind::Text, string_len(rest, c)?),
            c if c.is_alphanumeric() || c == '_' => {
                (Kind::Word, rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()))
            }
            _ => {
                let two = rest.get(..2).is_some_and(|t| ["==", "!=", "<=", ">=", "//", "**"].contains(&t));
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                (Kind::Symbol, if two { 2 } else { c.len_utf8() })
            }
        };
        tokens.push(Token { kind, text: &rest[..len], begin: at });
        at += len;
    }
}

fn string_len(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(i + 1),
            _ => {}
        }
    }
    None
}

fn end_of_raw(source: &str, mut at: usize) -> Option<usize> {
    loop {
        let open = at + source[at..].find("{%")?;
        let inner = source[open + 2..].trim_start_matches(['-', '+']).trim_start();
        if let Some(after) = inner.strip_prefix("endraw") {
            let after = after.trim_start().trim_start_matches(['-', '+']);
            if after.starts_with("%}") {
                return Some(source.len() - after.len() + 2);
            }
        }
        at = open + 2;
    }
}
