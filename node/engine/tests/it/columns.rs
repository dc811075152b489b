//! Rows as data sets and their tools write them: which columns are read, and what of them is learned.

use engine::data::Columns;
use std::fs;
use tempfile::TempDir;

use crate::forms::{TWO, read, read_with, rows_of};

#[test]
fn a_nul_is_refused_in_every_form_and_named_with_its_column() {
    for row in [
        r#"{"text": "a\u0000b"}"#,
        r#"["a\u0000b"]"#,
        r#"{"messages": [{"role": "user", "content": "a\u0000"}, {"role": "assistant", "content": "b"}]}"#,
        r#"[{"role": "user", "content": "a\u0000"}, {"role": "assistant", "content": "b"}]"#,
    ] {
        let error = read("rows", row).err().unwrap();
        assert!(error.contains("it has a NUL byte") && error.contains("column "), "{row}: {error}");
    }
    assert_eq!(rows_of("rows", r#"{"text": "one two three", "other": "a\u0000b", "path": "\\u0000"}"#), [TWO[0]]);
}

#[test]
fn text_with_tabs_is_text_where_its_name_says_so() {
    let words: String = (0..9).map(|i| format!("word{i}\tIts meaning {i}\n")).collect();
    for name in ["words.txt", "words.log", "words.md"] {
        let read = read(name, &words).unwrap();
        assert_eq!(read.bytes(), words.len() as u64, "{name}");
        let report = read.report().to_string();
        assert!(
            report.contains(&format!("read as text, as the name says, though tabs separate columns: {name}")),
            "{report}"
        );
    }
    assert!(read("words", &words).err().unwrap().contains("names no column"));
    assert_eq!(rows_of("rows.txt", format!("text\tid\n{}", "one two three\t1\n".repeat(9))), [TWO[0]; 9]);
}

#[test]
fn a_template_names_the_columns_that_a_row_lacks() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("rows.csv");
    fs::write(&path, "title,body\na,one two three\nb,four five six\n").unwrap();
    let said = |template: &str| {
        let columns = Columns::new(None, Some(template)).unwrap();
        read_with(&columns, &path, 64).err().unwrap_or_default()
    };
    let error = said("{{ nope }} {% for _ in range(2) %}{{ title }}{% endfor %}");
    assert!(
        error.contains("--template: the row has no column nope; of those that it has, name one: title, body"),
        "{error}"
    );
    assert!(said("{{ title.nope.more }}").contains("undefined"));
    assert_eq!(said("{{ body if nope is defined else title }} {{ body }}"), "");
}
