//! A loaded tokenizer: encoding in four modes, decoding, token lookup.

use std::collections::HashMap;
use std::str::FromStr;

use ahash::AHashMap;
use serde::Deserialize;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::tokenizer::{AddedVocabulary, Model, Normalizer, OffsetType, PreTokenizer, Token};
use tokenizers::{AddedToken, NormalizedString, Tokenizer};

use crate::control::is_control;
use crate::ffi::{fail, Outcome, INPUT, LIMIT, PARSE};
use crate::growth;
use crate::guard::{Guard, MARK};
use crate::token_bytes::Spelling;

const MAX_ID_LIMIT: u64 = 1 << 24;

/// What tokenizer_config.json adds to tokenizer.json.
#[derive(Deserialize, Default)]
#[serde(default)]
pub struct Extra {
    added_tokens: Vec<AddedToken>,
    split_special_tokens: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Plain,       // added tokens in the text become ids
    WithSpecial, // and the post-processor runs
    Literal,     // nothing in the text becomes a control token
    Guarded,     // text rendered from guarded pieces
}

pub struct Tok {
    pub inner: Tokenizer,
    pub guard: Guard,
    pub id_limit: u32,
    added: AHashMap<u32, AddedToken>,
    control: HashMap<u32, String>,
    literal: AddedVocabulary,
    guarded: Option<AddedVocabulary>, // the tokenizer's own unless a control token is matched after normalization
    spelling: Spelling,
}

impl Tok {
    pub fn load(json: &str, extra: &str) -> Outcome<Tok> {
        let extra: Extra = match extra {
            "" => Extra::default(),
            text => serde_json::from_str(text).or_else(|e| fail(INPUT, format!("added tokens: {e}")))?,
        };
        let mut inner = Tokenizer::from_str(json).or_else(|e| fail(PARSE, e.to_string()))?;
        // Files may carry both; transformers clears them.
        inner.with_truncation(None).or_else(|e| fail(PARSE, e.to_string()))?;
        inner.with_padding(None);
        let decoder = serde_json::to_value(inner.get_decoder()).unwrap_or_default();
        let normalizer = serde_json::to_value(inner.get_normalizer()).unwrap_or_default();
        growth::check(&normalizer, "normalizer").or_else(|e| fail(LIMIT, e))?;
        growth::check(&decoder, "decoder").or_else(|e| fail(LIMIT, e))?;

        let known: HashMap<String, AddedToken> =
            inner.get_added_tokens_decoder().into_values().map(|t| (t.content.clone(), t)).collect();
        let new: Vec<_> =
            extra.added_tokens.into_iter().filter(|t| !known.get(&t.content).is_some_and(|k| same(k, t))).collect();
        inner.add_tokens(&new);
        inner.set_encode_special_tokens(extra.split_special_tokens);

        let added = inner.get_added_tokens_decoder();
        let mut control = HashMap::new();
        let (mut harmless, mut all, mut late) = (Vec::new(), Vec::new(), false);
        let mut ids: Vec<_> = added.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            let mut token = added[&id].clone();
            if inner.get_added_vocabulary().is_special_token(&token.content) {
                token.special = true;
            }
            if is_control(&token) {
                control.insert(id, token.content.clone());
                late |= token.normalized;
                token.normalized = false;
            } else {
                harmless.push(token.clone());
            }
            all.push(token);
        }
        let literal = vocabulary(&harmless, &inner);
        let guarded = if late { Some(vocabulary(&all, &inner)) } else { None };
        Ok(Tok {
            guard: Guard::new(control.values().cloned().collect()),
            id_limit: id_limit(&inner)?,
            spelling: Spelling::new(&decoder),
            inner,
            added,
            control,
            literal,
            guarded,
        })
    }

    pub fn encode(&self, text: &str, mode: Mode) -> Outcome<Vec<u32>> {
        let encoding = match mode {
            Mode::Plain => self.inner.encode_fast(text, false),
            Mode::WithSpecial => self.inner.encode_fast(text, true),
            Mode::Literal => return self.encode_split(&self.literal, false, text),
            Mode::Guarded => {
                let vocabulary = self.guarded.as_ref().unwrap_or_else(|| self.inner.get_added_vocabulary());
                return self.encode_split(vocabulary, true, text);
            }
        };
        encoding.map(|e| e.get_ids().to_vec()).or_else(|e| fail(INPUT, e.to_string()))
    }

    fn encode_split(&self, vocabulary: &AddedVocabulary, strip: bool, text: &str) -> Outcome<Vec<u32>> {
        let run = || -> tokenizers::Result<Vec<u32>> {
            let normalizer = StripThen { strip, next: self.inner.get_normalizer() };
            let mut pieces = vocabulary.extract_and_normalize(Some(&normalizer), text);
            if let Some(split) = self.inner.get_pre_tokenizer() {
                split.pre_tokenize(&mut pieces)?;
            }
            pieces.tokenize(|piece| self.tokenize_text(piece.get()))?;
            Ok(pieces.into_encoding(None, 0, OffsetType::None)?.get_ids().to_vec())
        };
        run().or_else(|e| fail(INPUT, e.to_string()))
    }

    // Some models hold control tokens in their own vocabulary and find them in text (Unigram, BPE with ignore_merges):
    // such a piece is cut after the token's first character and tried again.
    fn tokenize_text(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let mut out = Vec::new();
        let mut work = vec![text];
        while let Some(text) = work.pop() {
            if text.is_empty() {
                continue;
            }
            let tokens = self.inner.get_model().tokenize(text)?;
            let found = tokens.iter().find(|t| {
                self.control.get(&t.id).is_some_and(|name| text.get(t.offsets.0..t.offsets.1) == Some(name.as_str()))
            });
            let Some(token) = found else {
                out.extend(tokens);
                continue;
            };
            let (begin, end) = token.offsets;
            let cut = begin + text[begin..end].chars().next().map_or(0, char::len_utf8);
            if cut == end {
                return Err(format!("{:?} can only be encoded as a control token", &text[begin..end]).into());
            }
            work.push(&text[cut..]);
            work.push(&text[..cut]);
        }
        Ok(out)
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Outcome<String> {
        self.inner.decode(ids, skip_special).or_else(|e| fail(INPUT, e.to_string()))
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.added.get(&id).is_some_and(|t| self.inner.get_added_vocabulary().is_special_token(&t.content))
    }

    pub fn is_control(&self, id: u32) -> bool {
        self.control.contains_key(&id)
    }

    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        if let Some(token) = self.added.get(&id) {
            return Some(token.content.clone().into_bytes());
        }
        self.inner.get_model().id_to_token(id).map(|token| self.spelling.bytes(&token))
    }
}

// The library's own comparison looks at the content only.
fn same(a: &AddedToken, b: &AddedToken) -> bool {
    let flags = |t: &AddedToken| (t.single_word, t.lstrip, t.rstrip, t.normalized, t.special);
    a.content == b.content && flags(a) == flags(b)
}

// The library gives new ids to tokens that a model does not know; this model knows the whole tokenizer.
struct Lookup<'a>(&'a Tokenizer);

impl Model for Lookup<'_> {
    type Trainer = <ModelWrapper as Model>::Trainer;
    fn tokenize(&self, _: &str) -> tokenizers::Result<Vec<Token>> {
        Ok(Vec::new())
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        HashMap::new()
    }
    fn get_vocab_size(&self) -> usize {
        0
    }
    fn save(&self, _: &std::path::Path, _: Option<&str>) -> tokenizers::Result<Vec<std::path::PathBuf>> {
        Ok(Vec::new())
    }
    fn get_trainer(&self) -> Self::Trainer {
        unreachable!("tokenizers are not trained here")
    }
}

fn vocabulary(tokens: &[AddedToken], tokenizer: &Tokenizer) -> AddedVocabulary {
    let mut vocabulary = AddedVocabulary::new();
    vocabulary.add_tokens(tokens, &Lookup(tokenizer), tokenizer.get_normalizer());
    vocabulary
}

struct StripThen<'a> {
    strip: bool,
    next: Option<&'a NormalizerWrapper>,
}

impl Normalizer for StripThen<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if self.strip && text.get().contains(MARK) {
            text.replace(MARK, "")?;
        }
        self.next.map_or(Ok(()), |n| n.normalize(text))
    }
}

fn id_limit(tokenizer: &Tokenizer) -> Outcome<u32> {
    let model = tokenizer.get_model();
    let size = model.get_vocab_size() as u64;
    let dense = size < MAX_ID_LIMIT && (0..size as u32).all(|id| model.id_to_token(id).is_some());
    let in_model = if dense { size } else { model.get_vocab().values().map(|id| *id as u64 + 1).max().unwrap_or(0) };
    let added =
        tokenizer.get_added_vocabulary().get_added_tokens_decoder().keys().map(|id| *id as u64 + 1).max().unwrap_or(0);
    let limit = in_model.max(added);
    if limit > MAX_ID_LIMIT {
        return fail(LIMIT, format!("token id {} is above the limit of {}", limit - 1, MAX_ID_LIMIT));
    }
    Ok(limit as u32)
}
