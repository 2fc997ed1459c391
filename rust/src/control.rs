//! Which added tokens steer the model (turn marks, tool and thinking tags) and which are plain text that got an id.

use tokenizers::AddedToken;

// Gemma lists these as added tokens although they are text: in a user's message they keep their ids, as in
// transformers.
const HTML: &[&str] = &[
    "a",
    "b",
    "bbox",
    "blockquote",
    "body",
    "br",
    "caption",
    "code",
    "div",
    "em",
    "footer",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "head",
    "header",
    "hr",
    "html",
    "i",
    "iframe",
    "img",
    "li",
    "ol",
    "p",
    "pre",
    "s",
    "span",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "title",
    "tr",
    "u",
    "ul",
];

/// A control token is special, or written in brackets (`<...>`, `[...]`) and not an HTML tag.
pub fn is_control(token: &AddedToken) -> bool {
    let text = token.content.as_str();
    if text.is_empty() {
        return false;
    }
    if token.special {
        return true;
    }
    if text.starts_with('[') && text.ends_with(']') && text.len() > 2 {
        return true;
    }
    match text.strip_prefix('<').and_then(|t| t.strip_suffix('>')) {
        Some(name) => !name.is_empty() && !HTML.contains(&name.strip_prefix('/').unwrap_or(name)),
        None => false,
    }
}
