//! Streaming detokenizer: text is handed out as soon as it can no longer change.

use std::sync::Arc;

use crate::ffi::Outcome;
use crate::tokenizer::Tok;

// A model may never finish a character; after this many ids without new text, what is certain is handed out.
const MAX_HELD: usize = 16;
// Enough ids to hold an unfinished character (at most 3 bytes) and the text before it.
const KEEP: usize = 4;

/// A window of recent ids, decoded again at every step because a token's text depends on its neighbours (leading
/// spaces, bytes of one character). `sent` is the part of the window's text already handed out, `sent_ids` the ids it
/// came from.
pub struct Stream {
    tok: Arc<Tok>,
    skip_special: bool,
    window: Vec<u32>,
    sent_ids: usize,
    sent: String,
}

impl Stream {
    pub fn new(tok: Arc<Tok>, skip_special: bool) -> Stream {
        Stream { tok, skip_special, window: Vec::new(), sent_ids: 0, sent: String::new() }
    }

    /// Adds an id; the new text, perhaps empty. Ids without a token are skipped, as in decode.
    pub fn push(&mut self, id: u32, out: &mut String) -> Outcome<()> {
        if (self.skip_special && self.tok.is_special(id)) || self.tok.inner.id_to_token(id).is_none() {
            return Ok(());
        }
        self.window.push(id);
        let text = self.tok.decode(&self.window, self.skip_special)?;
        let held = self.window.len() - self.sent_ids;
        if text.ends_with('\u{FFFD}') {
            if held > MAX_HELD {
                let certain = &text[..text.len() - '\u{FFFD}'.len_utf8()];
                out.push_str(certain.strip_prefix(self.sent.as_str()).unwrap_or(""));
                self.window.drain(..self.window.len() - KEEP);
                let text = self.tok.decode(&self.window, self.skip_special)?;
                self.sent = text.strip_suffix('\u{FFFD}').unwrap_or(&text).to_string();
                self.sent_ids = self.window.len();
            }
            return Ok(());
        }
        match text.strip_prefix(self.sent.as_str()) {
            Some("") if held <= MAX_HELD => return Ok(()),
            Some(new) => {
                out.push_str(new);
                self.window.drain(..self.sent_ids);
            }
            None => {
                // Bytes after a finished character made the whole run invalid: what was sent stays, the rest stands
                // alone.
                self.window.drain(..self.sent_ids);
                out.push_str(&self.tok.decode(&self.window, self.skip_special)?);
            }
        }
        self.sent = self.tok.decode(&self.window, self.skip_special)?;
        self.sent_ids = self.window.len();
        Ok(())
    }

    /// What is held back, with U+FFFD for unfinished characters; starts anew.
    pub fn flush(&mut self, out: &mut String) -> Outcome<()> {
        let text = self.tok.decode(&self.window, self.skip_special)?;
        match text.strip_prefix(self.sent.as_str()) {
            Some(new) => out.push_str(new),
            None => out.push_str(&self.tok.decode(&self.window[self.sent_ids..], self.skip_special)?),
        }
        self.window.clear();
        self.sent.clear();
        self.sent_ids = 0;
        Ok(())
    }
}
