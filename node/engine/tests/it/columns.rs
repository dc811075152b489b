//! Rows as data sets and their tools write them: which columns are read, and what of them is learned.

use engine::data::Columns;
use std::fs;
use tempfile::TempDir;

use crate::forms::read_with;

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
