//! How the tokens of a batch belong together: rows of any length, packed one after the other, without padding.

use anyhow::{Result, ensure};

/// N packed tokens as consecutive [`Span`]s, which cover them all.
///
/// A row of text is one span. A row with several continuations of one prompt is a small tree: a span for the prompt,
/// and a span for each continuation, whose prefix is the prompt.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Layout {
    spans: Vec<Span>,
    tokens: usize,
    longest: usize,
}

/// Consecutive packed tokens. Each attends to all tokens of the prefix, to the earlier ones of its span, and to itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Index of the first token among the packed ones.
    pub start: usize,
    /// Number of tokens, at least one.
    pub length: usize,
    /// Index of the earlier span that comes before this one in its row, if any. That one has no prefix.
    pub prefix: Option<usize>,
    /// Position in its row of the first token: 0, the length of the prefix, or that of what is not here.
    pub position: usize,
}

impl Layout {
    /// Rows of these lengths, in this order. Errors if one is empty.
    pub fn of_rows(lengths: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut layout = Self::default();
        for length in lengths {
            layout.push_row(length)?;
        }
        Ok(layout)
    }

    /// `length` tokens of one row that go on behind `position` tokens which are not here. Errors if there are none.
    pub fn behind(position: usize, length: usize) -> Result<Self> {
        ensure!(length > 0, "a row of a batch has no tokens");
        let span = Span { start: 0, length, prefix: None, position };
        Ok(Self { spans: vec![span], tokens: length, longest: position + length })
    }

    /// Appends a row of `length` tokens, and returns the index of its span. Errors if it is empty.
    pub fn push_row(&mut self, length: usize) -> Result<usize> {
        self.push(length, None)
    }

    /// Appends `length` tokens that continue span `prefix`, and returns the index of their span. Errors if there are
    /// none, or if there is no span `prefix` that starts a row.
    pub fn push_continuation(&mut self, prefix: usize, length: usize) -> Result<usize> {
        let starts_row = self.spans.get(prefix).is_some_and(|span| span.prefix.is_none());
        ensure!(starts_row, "span {prefix} of {} does not start a row", self.spans.len());
        self.push(length, Some(prefix))
    }

    fn push(&mut self, length: usize, prefix: Option<usize>) -> Result<usize> {
        ensure!(length > 0, "a row of a batch has no tokens");
        let position = prefix.map_or(0, |prefix| self.spans[prefix].length);
        self.spans.push(Span { start: self.tokens, length, prefix, position });
        self.tokens += length;
        self.longest = self.longest.max(position + length);
        Ok(self.spans.len() - 1)
    }

    /// The spans, in the order of their tokens.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// N, the number of packed tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Positions of the longest row: what the model's window must hold.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// Position in its row of each packed token.
    pub fn positions(&self) -> impl Iterator<Item = usize> {
        self.spans.iter().flat_map(|span| span.position..span.position + span.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_follow_each_other_and_continuations_count_on_from_their_prefix() {
        let mut layout = Layout::of_rows([3]).unwrap();
        let prompt = layout.push_row(2).unwrap();
        layout.push_continuation(prompt, 1).unwrap();
        layout.push_continuation(prompt, 2).unwrap();
        assert_eq!(layout.positions().collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 2, 3]);
        assert_eq!(layout.spans().iter().map(|span| span.start).collect::<Vec<_>>(), [0, 3, 5, 6]);
        assert_eq!((layout.tokens(), layout.longest()), (8, 4));
        assert_eq!(layout.spans()[3], Span { start: 6, length: 2, prefix: Some(1), position: 2 });
    }

    #[test]
    fn what_is_no_layout_is_refused_and_changes_nothing() {
        assert!(Layout::of_rows([2, 0]).is_err());
        let mut layout = Layout::of_rows([2]).unwrap();
        layout.push_continuation(0, 1).unwrap();
        let before = layout.clone();
        assert!(layout.push_continuation(1, 1).is_err(), "a continuation of a continuation");
        assert!(layout.push_continuation(2, 1).is_err());
        assert!(layout.push_continuation(0, 0).is_err());
        assert_eq!(layout, before);
    }
}
