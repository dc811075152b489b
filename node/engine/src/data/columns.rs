//! Which columns of rows are read.

use anyhow::{Context, Result, ensure};
use minijinja::{Value, value::ValueKind};

use super::{
    fields::{Fields, keys},
    names::is_known,
    sample::{Found, Question, Sample, prompt},
};
use crate::chat::{Formatter, Rendered, kind};

/// Which columns of rows are read, where it is not what their names say.
#[derive(Default)]
pub struct Columns {
    text_field: Option<String>,
    formatter: Option<Formatter>,
    /// Whether rows only ask, and what answers them is made by the model.
    asks: bool,
}

impl Columns {
    /// `text_field`: the column that is the text. `template`: Jinja over a row's columns. Errors name the flag.
    pub fn new(text_field: Option<String>, template: Option<&str>) -> Result<Self> {
        ensure!(
            text_field.is_none() || template.is_none(),
            "--text-field and --template both say what a row's text is; give one"
        );
        let formatter = template.map(Formatter::new).transpose().context("--template")?;
        Ok(Self { text_field, formatter, asks: false })
    }

    /// The same for rows of which only what is asked is read: the model completes it, and a program judges that.
    pub fn asking(self) -> Self {
        Self { asks: true, ..self }
    }

    /// Whether rows only ask.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// The flag that says which columns are read, if one does.
    pub fn flag(&self) -> Option<&'static str> {
        let template = self.formatter.as_ref().map(|_| "--template");
        self.text_field.as_ref().map(|_| "--text-field").or(template)
    }

    /// Whether a flag names this column.
    pub fn names(&self, name: &str) -> bool {
        let name = name.trim();
        self.text_field.as_ref().is_some_and(|field| field.trim() == name)
            || self.formatter.as_ref().is_some_and(|formatter| formatter.reads(name))
    }

    /// Whether a table with this header has columns that are read.
    pub fn knows(&self, header: &[String]) -> bool {
        let named = |name: &String| match &self.text_field {
            Some(_) => self.names(name),
            None => self.formatter.is_some() || is_known(name),
        };
        header.iter().any(named)
    }

    /// What is learned of a row; None if there is no text in it. Errors name the column, the value and the remedy.
    pub fn sample(&self, row: &Value) -> Result<Option<Found>> {
        if let Some(formatter) = &self.formatter {
            ensure!(row.kind() == ValueKind::Map, "the row is {}, and has no columns for --template", kind(row));
            let marked = formatter.render_marked(row).context("--template")?;
            let rendered = Rendered::of_marked(&marked).context("--template marks parts within parts")?;
            let is_empty = rendered.text.trim().is_empty();
            let used = keys(row);
            let sample = match rendered.learned.first() {
                Some(first) if self.asks => prompt(Question::Text(rendered.text[..first.start].to_owned()), row),
                None if self.asks => prompt(Question::Text(rendered.text), row),
                Some(_) => Sample::Marked(rendered),
                None => Sample::Text(rendered.text),
            };
            return Ok((!is_empty).then_some(Found { sample, label: "--template", used }));
        }
        let mut fields = Fields::of(row)?;
        let sample = match &self.text_field {
            Some(field) => {
                let sample = |text| if self.asks { prompt(Question::Text(text), row) } else { Sample::Text(text) };
                fields.named(field)?.map(|text| (sample(text), "--text-field"))
            }
            None if self.asks => fields.question()?.map(|(asked, label)| (prompt(asked, row), label)),
            None => fields.sample()?,
        };
        // A judge gets all columns.
        let used = if self.asks { keys(row) } else { fields.used };
        Ok(sample.map(|(sample, label)| Found { sample, label, used }))
    }
}
