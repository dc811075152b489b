//! Texts, read for one model: once, so that they may come through a pipe, and with a line that says what was read.

use anyhow::{Context, Result, ensure};
use engine::{
    chat::ChatTemplate,
    data::{Columns, Dataset, Reader, Report},
    embedded,
    model::{Checkpoint, Tokenizer},
    objective,
};
use protocol::manifest::ObjectiveLine;
use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use crate::{
    cli::settings::{ObjectiveChoice, Settings},
    system::display::progress_bar,
};

/// Tokens of a window, where the model has so many.
const SEQUENCE_LENGTH: usize = 128;
/// A text that takes longer gets a line that shows how far it is.
const PATIENCE: Duration = Duration::from_millis(500);
const REFRESH: Duration = Duration::from_millis(200);
/// Bytes of two files that are compared at a time.
const COMPARED_BYTES: u64 = 1 << 16;

/// Tokens of a window, as many as are `asked` for or as are usual, and how many the model has room for.
pub fn window(checkpoint: &Checkpoint, asked: Option<usize>) -> Result<(usize, usize)> {
    // The last token of a window is only predicted.
    let length_max = checkpoint.architecture()?.interface().window_max + 1;
    Ok((asked.unwrap_or(SEQUENCE_LENGTH.min(length_max)), length_max))
}

/// What this machine trains on, and what it is measured by.
#[derive(Default)]
pub struct Texts {
    /// None: this node does not train.
    pub data: Option<Dataset>,
    /// None: nothing is measured.
    pub held_out: Option<Dataset>,
}

impl Texts {
    /// As the settings say, for a run on `checkpoint` that states `objective`, if it is settled. `seed`: of the
    /// embedded task's own part.
    pub fn read(
        settings: &Settings,
        checkpoint: &Checkpoint,
        objective: Option<&ObjectiveLine>,
        is_embedded: bool,
        seed: u64,
    ) -> Result<Self> {
        let asks = match objective {
            Some(line) => objective::is_score(line),
            None => matches!(settings.objective, Some(ObjectiveChoice::Command(_))),
        };
        let columns = Columns::new(settings.text_field.clone(), settings.template.as_deref())?;
        let columns = if asks { columns.asking() } else { columns };
        let reader = TextReader::new(checkpoint, columns, settings.sequence_length, &settings.state)?;
        let length = reader.length;
        let eval = settings.eval.as_ref().map(|path| reader.load("--eval", path)).transpose()?;
        let (data, held_out) = match &settings.data {
            Some(path) if eval.is_some() => {
                if let Some(eval) = settings.eval.as_ref().filter(|eval| is_part(eval, path)) {
                    say_trained_on(eval, path);
                }
                (Some(reader.load("--data", path)?), eval)
            }
            Some(path) => {
                let (data, held_out) = reader.load_split("--data", path)?;
                (Some(data), Some(held_out))
            }
            None if is_embedded && !asks => {
                reader.check_length()?;
                let held_out = eval.map_or_else(|| embedded::held_out(&reader.tokenizer, length), Ok)?;
                (Some(embedded::training(seed, &reader.tokenizer, length)?), Some(held_out))
            }
            None => (None, eval),
        };
        Ok(Self { data, held_out })
    }

    /// Fails if what the settings ask for cannot be done with these texts.
    pub fn check(&self, settings: &Settings) -> Result<()> {
        if settings.stop_when_flat {
            ensure!(
                self.data.is_some(),
                "--stop-when-flat ends own gradients, and without --data this node makes none"
            );
            ensure!(self.held_out.is_some(), "--stop-when-flat needs a held-out text: give --eval <file or directory>");
        }
        Ok(())
    }
}

/// Reads texts for a model.
pub struct TextReader {
    /// The model's.
    pub tokenizer: Tokenizer,
    template: ChatTemplate,
    columns: Columns,
    /// Tokens of a window.
    pub length: usize,
    length_max: usize,
    scratch: PathBuf,
}

impl TextReader {
    /// `length`: tokens of a window, if said. `state`: a directory, there or to be, on the disk that takes what memory
    /// does not. Errors if the model's tokenizer is not sound.
    pub fn new(checkpoint: &Checkpoint, columns: Columns, length: Option<usize>, state: &Path) -> Result<Self> {
        let (length, length_max) = window(checkpoint, length)?;
        let tokenizer = Tokenizer::of(checkpoint).with_context(|| format!("the tokenizer of {}", checkpoint.source))?;
        let template = ChatTemplate::of(checkpoint, &tokenizer).with_context(|| format!("of {}", checkpoint.source))?;
        let scratch = state.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new(".")).to_owned();
        Ok(Self { tokenizer, template, columns, length, length_max, scratch })
    }

    /// Errors if the model has no window of this length.
    pub fn check_length(&self) -> Result<()> {
        let Self { length, length_max, .. } = self;
        ensure!(*length >= 2, "--sequence-length {length}: must be at least 2, a token to read and one to predict");
        ensure!(
            length <= length_max,
            "--sequence-length {length}: the model's rows have at most {length_max} tokens; give no more"
        );
        Ok(())
    }

    /// The text at `path`, which `flag` named.
    pub fn load(&self, flag: &str, path: &Path) -> Result<Dataset> {
        let data = self.watched(flag, path, |reader| reader.load(path))?;
        say_read(flag, data.report());
        Ok(data)
    }

    /// The same, and its held-out part.
    pub fn load_split(&self, flag: &str, path: &Path) -> Result<(Dataset, Dataset)> {
        let parts = self.watched(flag, path, |reader| reader.load_split(path))?;
        say_read(flag, parts.0.report());
        Ok(parts)
    }

    /// Reads, while a line shows how far that is, if it takes long.
    fn watched<T>(&self, flag: &str, path: &Path, read: impl FnOnce(&Reader<'_>) -> Result<T>) -> Result<T> {
        self.check_length()?;
        let progress = Arc::default();
        let Self { tokenizer, template, columns, length, scratch, .. } = self;
        let (sequence_length, progress_of) = (*length, Arc::clone(&progress));
        let reader = Reader { tokenizer, template, columns, sequence_length, scratch, progress: progress_of };
        let (there, is_input) = (fs::metadata(path).ok(), path == Path::new("-"));
        if is_input || there.as_ref().is_some_and(|there| there.file_type().is_fifo()) {
            tracing::info!("{flag} {}: reading until its writer closes it", path.display());
        }
        let size = there.filter(|there| there.is_file() && !is_input).map(|there| there.len());
        let done = Arc::new(());
        let is_going_on = Arc::downgrade(&done);
        let name = format!("reading {}", path.display());
        let watcher = thread::Builder::new().name("progress".into()).spawn(move || {
            thread::park_timeout(PATIENCE);
            let template = match size {
                Some(_) => "{msg}: {bar:30} {bytes} of {total_bytes} ({bytes_per_sec}), {eta} to go",
                None => "{spinner} {msg}: {bytes} ({bytes_per_sec}), {elapsed}",
            };
            let bar = progress_bar(size, name, template);
            while is_going_on.upgrade().is_some() {
                bar.set_position(progress.load(Ordering::Relaxed));
                thread::park_timeout(REFRESH);
            }
            bar.finish_and_clear();
        })?;
        let result = read(&reader);
        drop(done);
        watcher.thread().unpark();
        // It has nothing to tell.
        let _ = watcher.join();
        result.with_context(|| flag.to_owned())
    }
}

/// What was read of the text that `flag` named: a warning if something was left out, or is there that should not be.
fn say_read(flag: &str, report: &Report) {
    let left_out = report.bad_rows() + report.files_skipped() + report.prompts_cut();
    match left_out == 0 && !report.is_mixed() {
        true => tracing::info!("{flag} {report}"),
        false => tracing::warn!("{flag} {report}"),
    }
}

/// What `--eval` names is a part of what `--data` names.
fn say_trained_on(eval: &Path, data: &Path) {
    tracing::warn!(
        "--eval {}: the held-out text is trained on, too: it is --data {}, or a part of it, so its figures say nothing of other \
         texts; give --eval a text of its own, or leave it away for the last tenth of --data",
        eval.display(),
        data.display()
    );
}

/// Whether the text at `eval` is the one at `data`, byte by byte, or a part of that directory.
fn is_part(eval: &Path, data: &Path) -> bool {
    // Standard input can be read once.
    if [eval, data].contains(&Path::new("-")) {
        return false;
    }
    let paths = fs::canonicalize(eval).and_then(|eval| Ok((eval, fs::canonicalize(data)?)));
    paths.is_ok_and(|(eval, data)| match eval.strip_prefix(&data) {
        // Of a directory, what is hidden is not read.
        Ok(within) => !within.iter().any(|name| name.as_encoded_bytes().starts_with(b".")),
        Err(_) => is_copy(&eval, &data).unwrap_or(false),
    })
}

/// Whether two files hold the same bytes.
fn is_copy(one: &Path, other: &Path) -> io::Result<bool> {
    let (own, its) = (fs::metadata(one)?, fs::metadata(other)?);
    if !own.is_file() || !its.is_file() || own.len() != its.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut own, mut its) = (Vec::new(), Vec::new());
    loop {
        own.clear();
        its.clear();
        one.by_ref().take(COMPARED_BYTES).read_to_end(&mut own)?;
        other.by_ref().take(COMPARED_BYTES).read_to_end(&mut its)?;
        if own.is_empty() || own != its {
            return Ok(own == its);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was said of --data, which was sound.
    #[test]
    fn a_length_that_no_window_has_is_said_of_its_own_flag() {
        let checkpoint = embedded::checkpoint().unwrap();
        let text = tempfile::tempdir().unwrap();
        fs::write(text.path().join("text.txt"), "some text").unwrap();
        for length in [0, 1, 1 << 20] {
            let reader = TextReader::new(&checkpoint, Columns::default(), Some(length), text.path()).unwrap();
            let error = format!("{:#}", reader.load("--data", text.path()).err().unwrap());
            assert!(error.starts_with(&format!("--sequence-length {length}: ")), "{error}");
        }
    }

    #[test]
    fn a_held_out_text_that_is_trained_on_is_told_by_its_path_or_its_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            path
        };
        let long = "a line of a text\n".repeat(5_000);
        let (data, copy) = (file("notes/data.txt", &long), file("copy.txt", &long));
        let other = file("other.txt", &long.replace("text\n", "tale\n"));
        let last = file("last.txt", &format!("{}!", &long[..long.len() - 1]));
        let (notes, empty) = (directory.path().join("notes"), file("empty.txt", ""));
        let hidden = [file("notes/.held_out.txt", "the end\n"), file("notes/.aside/held_out.txt", "the end\n")];
        for (eval, data) in [(&data, &data), (&copy, &data), (&data, &notes), (&notes, &notes)] {
            assert!(is_part(eval, data), "{} of {}", eval.display(), data.display());
        }
        for (eval, data) in [(&other, &data), (&last, &data), (&copy, &notes), (&notes, &data), (&empty, &data)] {
            assert!(!is_part(eval, data), "{} of {}", eval.display(), data.display());
        }
        assert!(!hidden.iter().any(|eval| is_part(eval, &notes)), "hidden files are not trained on");
        assert!(!is_part(Path::new("-"), Path::new("-")) && !is_part(&notes.join("gone"), &data));
    }
}
