//! Constrained decoding: llguidance over a model's tokens.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use crate::ffi::{fail, Outcome, INPUT, LIMIT};
use crate::tokenizer::Tok;

const MAX_GRAMMAR: usize = 1 << 20;
const MAX_VOCAB: u32 = 1 << 24;

/// The tokens of one model as bytes, arranged for masks. Shared by all matchers.
pub struct GrammarEnv {
    factory: ParserFactory,
    words: usize,
}

pub struct GrammarMatcher {
    matcher: Matcher,
    words: usize,
}

impl GrammarEnv {
    /// `vocab_size`: of the logits; ids without a token can never be chosen.
    pub fn new(tok: &Tok, end_ids: &[u32], vocab_size: u32) -> Outcome<GrammarEnv> {
        if vocab_size == 0 || vocab_size > MAX_VOCAB || end_ids.is_empty() || end_ids.iter().any(|id| *id >= vocab_size) {
            return fail(INPUT, "constrained answers need a vocabulary and an end-of-text token inside it");
        }
        let words: Vec<Vec<u8>> = (0..vocab_size)
            .map(|id| {
                let bytes = tok.token_bytes(id).unwrap_or_default();
                // Control tokens are not text: no grammar over text may spell them.
                if tok.is_control(id) || end_ids.contains(&id) {
                    let mut special = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                    special.extend_from_slice(if bytes.is_empty() { b"?" } else { &bytes });
                    return special;
                }
                bytes
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(vocab_size, end_ids[0]), &words).with_eos_tokens(end_ids);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &SlicedBiasComputer::general_slices())
            .or_else(|e| fail(INPUT, e.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false; // would print the generated text
        limits.initial_lexer_fuel = 500_000;
        limits.step_lexer_fuel = 100_000;
        limits.max_lexer_states = 50_000;
        limits.max_grammar_size = 200_000;
        Ok(GrammarEnv { factory, words: (vocab_size as usize).div_ceil(32) })
    }

    /// kind: "json_schema", "regex" or "lark".
    pub fn matcher(&self, kind: &str, text: &str) -> Outcome<GrammarMatcher> {
        if text.len() > MAX_GRAMMAR {
            return fail(LIMIT, format!("larger than {MAX_GRAMMAR} bytes"));
        }
        let grammar = TopLevelGrammar::from_tagged_str(kind, text).or_else(|e| fail(INPUT, e.to_string()))?;
        let mut matcher = Matcher::new(self.factory.create_parser(grammar));
        // Much is compiled only when the first mask is asked for: better here than while others wait for the model.
        let _ = matcher.compute_mask_or_eos();
        match matcher.get_error() {
            Some(error) => fail(INPUT, error),
            None => Ok(GrammarMatcher { matcher, words: self.words }),
        }
    }
}

impl GrammarMatcher {
    /// Bit i of the mask: token i may come next. Only ends of text once the grammar is complete.
    pub fn mask(&mut self, out: &mut [u32]) -> Outcome<()> {
        let mask = self.matcher.compute_mask_or_eos().or_else(|e| fail(INPUT, e.to_string()))?;
        let bits = mask.as_slice();
        if out.len() != self.words || bits.len() < self.words {
            return fail(INPUT, "the mask has another size than the vocabulary");
        }
        out.copy_from_slice(&bits[..self.words]);
        Ok(())
    }

    pub fn accept(&mut self, id: u32) -> Outcome<()> {
        self.matcher.consume_token(id).or_else(|e| fail(INPUT, e.to_string()))
    }

    pub fn done(&self) -> bool {
        self.matcher.is_stopped()
    }
}
