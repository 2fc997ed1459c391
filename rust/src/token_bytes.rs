//! The bytes a single token stands for, which may be half a character.

use serde_json::Value;

/// How a tokenizer writes bytes into its vocabulary, read off its decoder.
#[derive(Default)]
pub struct Spelling {
    byte_level: bool,    // GPT-2: every byte is a printable character
    byte_fallback: bool, // <0xE4>
    spaces: Vec<String>, // strings that stand for a space (U+2581)
}

impl Spelling {
    pub fn new(decoder: &Value) -> Spelling {
        let mut spelling = Spelling::default();
        let mut work = vec![decoder];
        while let Some(part) = work.pop() {
            match part["type"].as_str() {
                Some("Sequence") => work.extend(part["decoders"].as_array().into_iter().flatten()),
                Some("ByteLevel") => spelling.byte_level = true,
                Some("ByteFallback") => spelling.byte_fallback = true,
                Some("Metaspace") => spelling.spaces.extend(part["replacement"].as_str().map(String::from)),
                Some("Replace") if part["content"] == " " => {
                    spelling.spaces.extend(part["pattern"]["String"].as_str().map(String::from));
                }
                _ => {}
            }
        }
        spelling.spaces.retain(|s| !s.is_empty());
        spelling
    }

    pub fn bytes(&self, token: &str) -> Vec<u8> {
        if self.byte_level {
            return token.chars().fold(Vec::new(), |mut out, c| {
                match byte_of(c) {
                    Some(byte) => out.push(byte),
                    None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
                out
            });
        }
        if self.byte_fallback && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') {
            if let Some(Ok(byte)) = token.get(3..5).map(|hex| u8::from_str_radix(hex, 16)) {
                return vec![byte];
            }
        }
        self.spaces.iter().fold(token.to_string(), |text, space| text.replace(space.as_str(), " ")).into_bytes()
    }
}

// The inverse of GPT-2's table: printable Latin-1 characters are themselves, the other 68 bytes follow U+0100 in order.
fn byte_of(c: char) -> Option<u8> {
    let plain = |b: u32| (0x21..=0x7e).contains(&b) || (0xa1..=0xac).contains(&b) || (0xae..=0xff).contains(&b);
    let code = c as u32;
    if plain(code) {
        return Some(code as u8);
    }
    (0..256u32).filter(|b| !plain(*b)).nth(code.checked_sub(0x100)? as usize).map(|b| b as u8)
}
