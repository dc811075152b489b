//! A prompt that is too long.

/// A prompt of which a model does not see the beginning.
pub fn prompt_outgrows(tokens: usize, window: usize) {
    if let Some(words) = prompt_outgrows_words(tokens, window) {
        tracing::warn!("{words}");
    }
}

fn prompt_outgrows_words(tokens: usize, window: usize) -> Option<String> {
    let lost = tokens.checked_sub(window).filter(|lost| *lost > 0)?;
    Some(format!(
        "the prompt has {tokens} tokens, and the model's window {window}: the model sees the end of it, without the first {lost}; \
         shorten it"
    ))
}
