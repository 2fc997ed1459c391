//! What is done to a template's source before it is compiled, so that rendering ends whatever the template says.
//!
//! The engine meters instructions, output and strings ("fuel"), but recurses over expressions and values on the stack,
//! and does not meter the comparison and printing of values that hold other values many times over. Therefore:
//! - tags are limited in tokens and `elif` in number: the parser's and code generator's recursion stays shallow;
//! - a namespace may only be used through its attributes: no value can contain itself;
//! - what `set` and `for` bind passes through the function `CHECKED` (checked.rs): no value grows deep or exponentially
//!   large.
//!
//! Besides, `{% generation %}` (transformers' mark of what is trained on) becomes a block that is always taken. No line
//! moves.

use std::collections::HashSet;

use crate::scan::{tags, Kind, Tag, Token};

/// The name of the function that checks values; no template uses it by itself.
pub const CHECKED: &str = "optiq_checked__";

const MAX_TOKENS: usize = 1000; // in one tag; the longest seen in public templates is below 200
const MAX_ELIF: usize = 500;

struct Edits(Vec<(usize, usize, String)>); // begin, end, text instead

impl Edits {
    fn wrap(&mut self, begin: usize, end: usize) {
        self.0.push((begin, begin, format!(" {CHECKED}((")));
        self.0.push((end, end, ")) ".to_string()));
    }
}

/// The source to compile, or what is wrong with it.
pub fn screen(source: &str) -> Result<String, String> {
    let tags = tags(source);
    let line = |at: usize| source[..at].matches('\n').count() + 1;
    let mut edits = Edits(Vec::new());
    let mut elif = 0;
    let names = namespaces(&tags);
    for tag in &tags {
        let Some(first) = tag.tokens.first() else { continue };
        let begin = first.begin;
        if tag.tokens.len() > MAX_TOKENS {
            return Err(format!("line {}: a tag of more than {MAX_TOKENS} tokens", line(begin)));
        }
        check_namespaces(tag, &names).map_err(|(at, what)| format!("line {}: {what}", line(at)))?;
        if !tag.statement {
            continue;
        }
        match first.text {
            "generation" if tag.tokens.len() == 1 => edits.0.push((begin, first.end(), "if true".into())),
            "endgeneration" if tag.tokens.len() == 1 => edits.0.push((begin, first.end(), "endif".into())),
            "elif" => elif += 1,
            "set" => wrap_set(tag, &mut edits),
            "for" => wrap_for(tag, &mut edits),
            _ => {}
        }
    }
    if elif > MAX_ELIF {
        return Err(format!("more than {MAX_ELIF} 'elif'"));
    }
    Ok(apply(source, edits))
}

fn apply(source: &str, edits: Edits) -> String {
    let mut out = String::with_capacity(source.len() + 40 * edits.0.len());
    let mut at = 0;
    for (begin, end, text) in edits.0 {
        out.push_str(&source[at..begin]);
        out.push_str(&text);
        at = end;
    }
    out.push_str(&source[at..]);
    out
}

// The first token outside brackets, from `from` on, that is one of `what`.
fn outside(tokens: &[Token], from: usize, what: &[&str]) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(from) {
        if token.kind == Kind::Symbol && ["(", "[", "{"].contains(&token.text) {
            depth += 1;
        } else if token.kind == Kind::Symbol && [")", "]", "}"].contains(&token.text) {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && what.iter().any(|w| token.is(w)) {
            return Some(i);
        }
    }
    None
}

// {% set a = EXPR %}
fn wrap_set(tag: &Tag, edits: &mut Edits) {
    if let Some(equals) = outside(&tag.tokens, 1, &["="]) {
        if equals + 1 < tag.tokens.len() {
            edits.wrap(tag.tokens[equals].end(), tag.end);
        }
    }
}

// {% for a in EXPR if CONDITION recursive %}. A plain path (messages, m.content, m['x']) holds nothing new.
fn wrap_for(tag: &Tag, edits: &mut Edits) {
    let Some(first) = outside(&tag.tokens, 1, &["in"]).map(|i| i + 1) else { return };
    let last = outside(&tag.tokens, first, &["if", "recursive"]).unwrap_or(tag.tokens.len());
    let part = &tag.tokens[first.min(last)..last];
    let plain = |i: usize, t: &Token| match t.kind {
        Kind::Word => true,
        Kind::Text => i > 0,
        Kind::Symbol => t.text == "." || t.text == "]" || (t.text == "[" && i > 0),
    };
    if !part.is_empty() && !part.iter().enumerate().all(|(i, t)| plain(i, t)) {
        edits.wrap(part[0].begin, part[part.len() - 1].end());
    }
}

// `set NAME = namespace(...)`: the position of `namespace`.
fn definition(tag: &Tag) -> Option<usize> {
    let t = &tag.tokens;
    let whole = t.len() >= 6 && tag.statement && t[0].is("set") && t[2].is("=") && t[3].is("namespace") && t[4].is("(");
    let closes = || outside(t, 5, &[")"]).is_none() && matching(t, 4) == Some(t.len() - 1);
    (whole && closes()).then_some(3)
}

fn matching(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        if token.kind == Kind::Symbol && ["(", "[", "{"].contains(&token.text) {
            depth += 1;
        } else if token.kind == Kind::Symbol && [")", "]", "}"].contains(&token.text) {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                return Some(i);
            }
        }
    }
    None
}

fn namespaces<'a>(tags: &[Tag<'a>]) -> HashSet<&'a str> {
    tags.iter().filter(|t| definition(t).is_some()).map(|t| t.tokens[1].text).collect()
}

fn check_namespaces(tag: &Tag, names: &HashSet<&str>) -> Result<(), (usize, String)> {
    let defined = definition(tag);
    for (i, token) in tag.tokens.iter().enumerate() {
        let after_dot = i > 0 && (tag.tokens[i - 1].is(".") || tag.tokens[i - 1].is("|"));
        if token.kind != Kind::Word || after_dot {
            continue;
        }
        let next = tag.tokens.get(i + 1);
        if token.text == "namespace" && defined != Some(i) {
            return Err((token.begin, "namespace() may only be used as {% set name = namespace(...) %}".into()));
        }
        if !names.contains(token.text) || (defined.is_some() && i == 1) {
            continue;
        }
        if !next.is_some_and(|n| [".", "[", "is", "="].iter().any(|ok| n.is(ok))) {
            return Err((token.begin, format!("'{0}' is a namespace: it may only be used as {0}.name", token.text)));
        }
    }
    Ok(())
}
