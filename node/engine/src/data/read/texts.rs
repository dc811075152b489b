//! Plain texts: one stream of tokens, its end held out.

use anyhow::{Result, ensure};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    ops::Range,
    sync::Arc,
};

use super::super::{
    bytes::{self, Content, Opened},
    held_out::held_out_files,
    part::{Part, Rows},
    report::counted,
    scratch,
    source::{Counted, Source},
    text::{encode_bytes, split},
    window::Windows,
};
use super::{Reading, Seen};

/// Where a file's text goes.
#[derive(Clone, Copy)]
enum Place {
    Train,
    HeldOut,
    /// What comes before this share of its bytes is trained on.
    Both(f64),
}

impl Reading<'_> {
    /// All plain texts as one stream: what is trained on, what is held out.
    pub(super) fn texts(&mut self, mut texts: Vec<Seen>, held_out: f64) -> Result<[Part; 2]> {
        if held_out > 0.0 {
            texts = self.without_copies(texts);
        }
        let sizes: Vec<u64> = texts.iter().map(|seen| seen.source.size().unwrap_or(1)).collect();
        let (whole_from, share) = held_out_files(&sizes, held_out);
        let (mut bytes, mut eval_start) = ([0, 0], None);
        for (index, seen) in texts.iter_mut().enumerate() {
            let name = seen.source.path().display().to_string();
            let (before, opened) = (self.tokens.len(), eval_start);
            let place = match () {
                () if index < whole_from => Place::Train,
                () if index > whole_from || share == 0.0 => Place::HeldOut,
                () => Place::Both(share),
            };
            match self.text(seen, place, &mut eval_start) {
                Ok([train, eval]) => bytes = [bytes[0] + train, bytes[1] + eval],
                Err(error) if self.report.is_directory => {
                    self.tokens.truncate(before)?;
                    eval_start = opened;
                    self.report.skip(name, format!("{error:#}"));
                }
                Err(error) => return Err(error.context(name)),
            }
        }
        let (end, length) = (self.tokens.len(), self.encoder.sequence_length);
        let boundary = eval_start.unwrap_or(end);
        self.report.left_over = (boundary % length + (end - boundary) % length) as u64;
        if bytes[1] > 0 {
            let files = (texts.len() - whole_from) as u64;
            self.report.held_out = Some(match (share > 0.0, texts.get(whole_from)) {
                (true, Some(seen)) if texts.len() > 1 => format!("the end of {}", seen.source.path().display()),
                (true, _) => format!("the last {:.0}%", 100.0 * held_out),
                (false, _) => format!("the last {}", counted(files, "text")),
            });
        }
        let part = |tokens: Range<usize>, bytes| Part {
            tokens: tokens.len() as u64,
            rows: Rows::Windows(Windows::of_stream(tokens, length)),
            bytes,
        };
        Ok([part(0..boundary, bytes[0]), part(boundary..end, bytes[1])])
    }

    /// The texts without those that are there before, compressed or not: one would be trained on, and the other held
    /// out.
    fn without_copies(&mut self, texts: Vec<Seen>) -> Vec<Seen> {
        let (mut beginnings, mut digests, mut kept) = (HashMap::new(), HashSet::new(), Vec::new());
        for seen in &texts {
            *beginnings.entry(seen.beginning).or_insert(0) += 1;
        }
        for seen in texts {
            let is_alike = beginnings[&seen.beginning] > 1;
            if is_alike && digest(&seen.source).is_some_and(|digest| !digests.insert(digest)) {
                let path = seen.source.path();
                let name = path.strip_prefix(&self.report.path).unwrap_or(path).display().to_string();
                self.report.skip(name, "the same text as one before, under another name".into());
            } else {
                kept.push(seen);
            }
        }
        kept
    }

    /// Tokens of a file, with what opens and closes a text where it begins and ends, on whichever side that is. Returns
    /// the bytes of both sides.
    fn text(&mut self, seen: &mut Seen, place: Place, eval_start: &mut Option<usize>) -> Result<[u64; 2]> {
        let Opened { mut bytes, marks, wrapping, .. } = self.reopen(seen)?;
        let here = match place {
            Place::Train => u64::MAX,
            Place::HeldOut => 0,
            Place::Both(share) => {
                // A share of a text can be told once its length is known.
                let is_plain = wrapping.is_empty() && seen.source.size().is_some();
                let (mut file, start) = match is_plain {
                    true => (File::open(seen.source.path())?, marks),
                    false => (scratch::copy(&mut bytes, self.scratch)?, 0),
                };
                let length = file.metadata()?.len().saturating_sub(start);
                let here = split(&mut file, start, length, (length as f64 * share).floor() as u64)?;
                file.seek(SeekFrom::Start(start))?;
                let progress = if is_plain { self.progress.clone() } else { Arc::default() };
                bytes = BufReader::new(Box::new(Counted { raw: Box::new(file), progress }));
                here
            }
        };
        let (tokenizer, tokens, mut read, mut says) = (self.encoder.tokenizer, &mut self.tokens, [0, 0], [false; 2]);
        if here > 0 {
            tokens.extend(tokenizer.opening())?;
            (read[0], says[0]) = encode_bytes(&mut bytes.by_ref().take(here), 0, tokenizer, tokens)?;
        }
        if here < u64::MAX {
            eval_start.get_or_insert(tokens.len());
            tokens.extend(if here == 0 { tokenizer.opening() } else { &[] })?;
            (read[1], says[1]) = encode_bytes(&mut bytes, here, tokenizer, tokens)?;
        }
        ensure!(says.contains(&true), "no text, only white space");
        tokens.extend(tokenizer.closing())?;
        self.count(seen.form, &wrapping);
        self.report.doubt(seen.source.path(), seen.separated, seen.nearly_json);
        Ok(read)
    }
}

/// What tells texts apart; None if one cannot be read, which is said where it is.
fn digest(source: &Source) -> Option<[u8; 32]> {
    let Ok(Content::Text(opened)) = bytes::content(source.open().ok()?) else { return None };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(opened.bytes).ok()?;
    Some(hasher.finalize().into())
}
