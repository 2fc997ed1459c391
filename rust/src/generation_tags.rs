//! `{% generation %} ... {% endgeneration %}` marks what a model is trained on (transformers); for rendering it is a block that is
//! always taken. Only the words change, so whitespace control and line numbers stay.

pub fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open + 2);
        out.push_str(before);
        let skipped = tag.len() - tag.trim_start_matches(['-', '+']).trim_start().len();
        out.push_str(&tag[..skipped]);
        rest = &tag[skipped..];
        for (word, block) in [("generation", "if true"), ("endgeneration", "endif")] {
            let after = rest.strip_prefix(word);
            if after.is_some_and(|a| a.trim_start().trim_start_matches(['-', '+']).starts_with("%}")) {
                out.push_str(block);
                rest = &rest[word.len()..];
                break;
            }
        }
    }
    out.push_str(rest);
    out
}
