//! Files of text.

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Extensions of files that a directory is searched for.
const TEXT_EXTENSIONS: [&str; 6] = ["txt", "text", "md", "rst", "tex", "csv"];
/// Extensions of JSON Lines.
const JSON_LINES_EXTENSIONS: [&str; 2] = ["jsonl", "ndjson"];
/// Deepest directory that is searched.
const DEPTH_MAX: usize = 32;

/// Text files and JSON Lines files, each in the order of their paths.
pub fn find_files(path: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let metadata = fs::metadata(path).with_context(|| {
        format!("cannot read {}; --data takes a text file, a directory, or JSON Lines", path.display())
    })?;
    let mut files = Vec::new();
    match metadata.is_dir() {
        true => search(path, 0, &mut files)?,
        false => files.push(path.to_owned()),
    }
    files.sort();
    ensure!(
        !files.is_empty(),
        "{} has no files ending in {} or {}",
        path.display(),
        TEXT_EXTENSIONS.join(", "),
        JSON_LINES_EXTENSIONS.join(", ")
    );
    Ok(files.into_iter().partition(|file| !has_extension(file, &JSON_LINES_EXTENSIONS)))
}

fn search(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    ensure!(depth <= DEPTH_MAX, "{} lies more than {DEPTH_MAX} directories deep", directory.display());
    let cannot = || format!("cannot list {}", directory.display());
    for entry in fs::read_dir(directory).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let path = entry.path();
        // Links to directories are not followed: they could lead in a circle.
        if entry.file_type().with_context(cannot)?.is_dir() {
            search(&path, depth + 1, files)?;
        } else if path.is_file()
            && (has_extension(&path, &TEXT_EXTENSIONS) || has_extension(&path, &JSON_LINES_EXTENSIONS))
        {
            files.push(path);
        }
    }
    Ok(())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|e| found.eq_ignore_ascii_case(e)))
}

/// The whole file. Errors name the byte that is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!(
            "{} is not UTF-8 text: byte {at} begins no character; convert the file to UTF-8",
            path.display()
        )
    })
}
