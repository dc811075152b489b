//! Rows as data sets and their tools write them: which columns are read, and what of them is learned.

use engine::data::Columns;
use std::fs;
use tempfile::TempDir;

use crate::forms::{TWO, read, read_with, rows, rows_of};

/// The prompt of a row with choices and the index of the right one, of what the first row says.
fn chosen(name: &str, content: &str) -> Result<(String, usize), String> {
    let read = read(name, content)?;
    let batch = read.batch_of(&[0]).unwrap();
    let tokens: Vec<u32> = batch.tokens.to_vec1().unwrap();
    let given = batch.targets.iter().map(|target| target.position as usize).min().unwrap();
    let prompt = tokens[..=given].iter().map(|id| char::from(*id as u8)).collect();
    Ok((prompt, batch.rows[0].answer))
}

#[test]
fn an_answer_in_a_table_is_an_index_whatever_the_choices_are() {
    for (answer, right) in [("2", 2), ("0", 0), ("3", 3), ("1.0", 1)] {
        let content =
            format!("prompt,choices,answer\n0+1=,\"[\"\"3\"\", \"\"2\"\", \"\"1\"\", \"\"0\"\"]\",{answer}\n");
        assert_eq!(chosen("rows.csv", &content), Ok(("0+1=".into(), right)), "{answer}");
        let line = format!(r#"{{"prompt": "0+1=", "choices": ["3", "2", "1", "0"], "answer": {answer}}}"#);
        assert_eq!(chosen("rows", &line), Ok(("0+1=".into(), right)), "{answer}");
    }
    let words = r#"{"prompt": "0+1=", "choices": ["3", "2", "1", "0"], "answer": "1"}"#;
    assert_eq!(chosen("rows", words), Ok(("0+1=".into(), 2)), "a text in JSON is the choice's own");
    let table = "prompt,choices,answer\n1+6=,\"[\"\"7\"\", \"\"8\"\"]\",7\n1+7=,\"[\"\"1\"\", \"\"8\"\"]\",1\n";
    assert_eq!(chosen("rows.csv", table), Ok(("1+6=".into(), 0)), "no index, so it is the choice's own");
    let report = read("rows.csv", table).unwrap().report().to_string();
    assert!(report.contains("1 prompt, choices and answer by its index, though"), "{report}");
    // A number is an index in JSON, too.
    let line =
        |answer: &str| format!("{{\"prompt\": \"0+2=\", \"choices\": [\"2\", \"3\", \"1\"], \"answer\": {answer}}}\n");
    let report = read("rows", line("2") + &line("\"2\"") + &line("0")).unwrap().report().to_string();
    assert!(
        report.contains("(2 prompt, choices and answer; 1 prompt, choices and answer by its index, though"),
        "{report}"
    );
}

#[test]
fn options_are_choices_and_what_they_are_about_comes_before_the_question() {
    let row = |about: &str, choices: &str| format!(r#"{{{about} "question": "How many?", {choices}}}"#);
    let two = r#""choices": [" a", " b"], "answer": 1"#;
    for about in ["context", "input", "passage", "article"] {
        let about = format!(r#""{about}": "Anna has 2.","#);
        assert_eq!(chosen("rows", &row(&about, two)), Ok(("Anna has 2.\n\nHow many?".into(), 1)), "{about}");
    }
    assert_eq!(chosen("rows", &row("", two)), Ok(("How many?".into(), 1)));
    for choices in [
        r#""options": [" a", " b"], "answer": "B""#,
        r#""options": {"A": "x", "B": "y"}, "answer": "B""#,
        r#""options": {"A": "x", "B": "y", "C": null}, "answer": "y""#,
        r#""options": "{\"A\": \"x\", \"B\": \"y\"}", "answer": "B""#,
        r#""options": [{"key": "A", "value": "x"}, {"key": "B", "value": "y"}], "answer": "B""#,
        r#""choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2""#,
        r#""choices": [1, 2], "answer": 1"#,
        r#""options": ["A) x", "B) y"], "correct": "B""#,
    ] {
        assert_eq!(chosen("rows", &row("", choices)), Ok(("How many?".into(), 1)), "{choices}");
    }
    for (choices, part) in [
        (
            r#""options": "x or y", "answer": "A""#,
            "malformed: options is \"x or y\"; give it a list of texts, or --template",
        ),
        (r#""options": "['x', 'y']", "answer": "A""#, "as Python shows it"),
        (r#""options": ["x", "y"], "answer": "neither""#, "answer is \"neither\"; it must be the index"),
    ] {
        let error = chosen("rows", &row("", choices)).unwrap_err();
        assert!(error.contains(part), "{choices}: {error}");
    }
    // Beside what is no name of one, and where there are none.
    for options in [r#""options": ["x", "y"], "output": "B""#, r#""options": [], "answer": "B""#] {
        assert_eq!(rows_of("rows", row("", options)), ["User: How many?\nAssistant:[ B$]"], "{options}");
    }
}

#[test]
fn a_cell_with_nothing_in_it_is_a_column_that_is_not_there() {
    let chat = "User: hi\nAssistant:[ ho$]";
    for (header, record, expected) in [
        ("text,instruction,output", "one two three,,", TWO[0]),
        ("text,instruction,output", ",hi,ho", chat),
        ("text,prompt,completion", "one two three,, ", TWO[0]),
        ("text,prompt,completion", ",hi, ho", "hi[ ho$]"),
        ("prompt,completion,instruction,output", "hi, ho,,", "hi[ ho$]"),
        ("prompt,completion,instruction,output", ",,hi,ho", chat),
        ("title,text,content", "t,,one two three", TWO[0]),
        ("instruction,output,response", "hi,,ho", chat),
        ("instruction,input,output", ",hi,ho", chat),
        ("prompt,answer,completion", "hi,, ho", "hi[ ho$]"),
        ("prompt,choices,answer,text", ",,,one two three", TWO[0]),
    ] {
        assert_eq!(rows_of("rows.csv", format!("{header}\n{record}\n{record}\n")), [expected; 2], "{header}: {record}");
        let white = header.split(',').zip(record.split(',')).filter(|(_, cell)| !cell.trim().is_empty());
        let null: Vec<String> = white.map(|(name, cell)| format!("\"{name}\": \"{cell}\"")).collect();
        assert_eq!(rows_of("rows", format!("{{{}}}\n", null.join(", "))), [expected], "{null:?}");
    }
    for row in [r#"{"Text": "", "text": "one two three"}"#, r#"{"text": "one two three", "TEXT": " "}"#] {
        assert_eq!(rows_of("rows", row), [TWO[0]], "{row}");
    }
    let read_two = read("rows.csv", "text,instruction,output\none two three,,\n,hi,ho\n").unwrap();
    assert!(!read_two.report().to_string().contains("left alone"), "{}", read_two.report());
    // What lacks its other half is bad, and what has nothing is empty.
    for (header, record, part) in [
        ("instruction,output,text", "hi,,", "the output is empty"),
        ("prompt,completion", "hi,", "the completion is empty"),
        ("question,answer", ",ho", "the question is empty"),
        ("body,response", "one two three,", "--text-field"),
    ] {
        let error = read("rows.csv", format!("{header}\n{record}\n{record}\n")).err().unwrap();
        assert!(error.contains("2 of 2 rows") && error.contains(part), "{header}: {error}");
    }
    let read = read("rows.csv", "id,instruction,output\n1,hi,ho\n2,,\n3,hi,ho\n").unwrap();
    assert!(rows(&read) == [chat; 2] && read.report().to_string().contains("1 row empty"), "{}", read.report());
}

#[test]
fn tools_and_calls_with_nothing_in_them_are_not_there() {
    let turns = |answer: &str| {
        format!(r#"[{{"role": "user", "content": "hi"}}, {{"role": "assistant", "content": "{answer}"}}]"#)
    };
    let (chat, plain) = ("User: hi\nAssistant:[ ho$]", turns("ho"));
    let cell = plain.replace('"', "\"\"");
    for nothing in ["", "[]", "null"] {
        let table = format!("messages,tools\n\"{cell}\",{nothing}\n");
        assert_eq!(rows_of("rows.csv", table), [chat], "{nothing}");
        let line = format!(r#"{{"messages": {plain}, "tools": "{nothing}"}}"#);
        assert_eq!(rows_of("rows", line), [chat], "{nothing}");
    }
    for nothing in [r#""tool_calls": []"#, r#""tool_calls": """#, r#""tool_calls": "null", "function_call": """#] {
        let with = |answer: &str| turns(answer).replace("}]", &format!(", {nothing}}}]"));
        assert_eq!(rows_of("rows", format!("{{\"messages\": {}}}", with("ho"))), [chat], "{nothing}");
        // An empty turn stays one that says nothing.
        let error = read("rows", format!("{{\"messages\": {}}}", with(""))).err().unwrap();
        assert!(error.contains("no turn of the assistant says anything"), "{nothing}: {error}");
    }
    let older = format!(r#"{{"messages": {plain}, "tools": "", "functions": "[]"}}"#);
    assert_eq!(rows_of("rows", older), [chat]);
}

#[test]
fn a_system_prompt_is_shown_once_and_that_of_the_conversation_wins() {
    let turns = r#"[{"role": "user", "parts": [{"text": "hi"}]}, {"role": "model", "parts": [{"text": "ho"}]}]"#;
    let shown = "Be.\nUser: hi\nAssistant:[ ho$]";
    for system in [
        r#""systemInstruction": {"role": "system", "parts": [{"text": "Be."}]}"#,
        r#""system_instruction": {"parts": [{"text": "B"}, {"text": "e."}]}"#,
        r#""systemInstruction": "Be.""#,
        r#""system": {"role": "system", "content": "Be."}"#,
        r#""system": [{"type": "text", "text": "B", "cache_control": {"type": "ephemeral"}}, {"text": "e."}]"#,
    ] {
        assert_eq!(rows_of("rows", format!("{{{system}, \"contents\": {turns}}}\n")), [shown], "{system}");
    }
    for nothing in [
        r#""system": " ""#,
        r#""system": []"#,
        r#""system": [{"type": "text", "text": ""}]"#,
        r#""systemInstruction": {"parts": []}"#,
    ] {
        let row = format!("{{{nothing}, \"contents\": {turns}}}\n");
        assert_eq!(rows_of("rows", row), ["User: hi\nAssistant:[ ho$]"], "{nothing}");
    }
    let own = turns.replacen('[', r#"[{"role": "system", "content": "Be."}, "#, 1);
    let read = read("rows", format!("{{\"system\": \"Be rude.\", \"messages\": {own}}}\n").repeat(2)).unwrap();
    assert_eq!(rows(&read), [shown; 2]);
    assert!(read.report().to_string().contains("columns left alone: system"), "{}", read.report());
    let pair = r#"{"system": "Be.", "prompt": [{"role": "user", "content": "hi"}], "completion": "ho"}"#;
    assert_eq!(rows_of("rows", pair), [shown]);
}

#[test]
fn a_prompt_of_messages_has_an_answer_or_is_told_what_is_missing() {
    let row = |rest: &str| format!("{{\"prompt\": [{{\"role\": \"user\", \"content\": \"hi\"}}]{rest}}}");
    let chat = "User: hi\nAssistant:[ ho$]";
    for rest in [
        r#", "completion": [{"role": "assistant", "content": "ho"}]"#,
        r#", "completion": "ho""#,
        r#", "response": "ho""#,
        r#", "answer": "ho", "chosen": "a", "rejected": "b""#,
        r#", "completion": null, "output": [{"role": "assistant", "content": "ho"}]"#,
    ] {
        assert_eq!(rows_of("rows", row(rest)), [chat], "{rest}");
    }
    assert_eq!(rows_of("rows", row(r#", "answer": 42"#)), ["User: hi\nAssistant:[ 42$]"]);
    for (rest, part) in [
        (r#", "chosen": [{"role": "assistant", "content": "a"}], "rejected": []"#, "it must have text; prompt and"),
        (r#", "chosen": "a", "rejected": "b""#, "compares chosen and rejected"),
        (r#", "completion": """#, "the completion is empty"),
        (r#", "response": " ""#, "the response is empty, there is nothing to learn"),
        ("", "it must have text; prompt and completion"),
        (r#", "choices": ["a", "b"], "answer": 1"#, "column prompt is a list, not a text"),
    ] {
        let error = read("rows", row(rest)).err().unwrap();
        assert!(error.contains(part), "{rest}: {error}");
    }
}

#[test]
fn a_completion_that_is_not_wanted_is_not_learned() {
    let row = |label: &str| format!("{{\"prompt\": \"a\", \"completion\": \"bcd\", \"label\": {label}}}\n");
    let dataset = read("rows", row("true").repeat(40) + &row("false") + &row("\"False\"")).unwrap();
    assert_eq!((dataset.windows(), dataset.report().bad_rows()), (40, 2));
    let error = read("rows", row("true") + &row("false")).err().unwrap();
    assert!(error.contains("line 2: the row's label is false") && error.contains("leave such rows out"), "{error}");
    assert_eq!(rows_of("rows", row("1")), ["a[bcd$]"]);
    let turns = r#"[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]"#;
    let row = |label: &str| format!("{{\"messages\": {turns}, \"label\": {label}}}\n");
    let dataset = read("rows", row("true").repeat(40) + &row("false")).unwrap();
    assert_eq!((dataset.windows(), dataset.report().bad_rows()), (40, 1));
}

#[test]
fn conversations_come_out_of_every_form_that_pandas_writes_or_are_named() {
    let turns = r#"[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]"#;
    for content in [
        format!(r#"{{"messages": {{"0": {turns}, "1": {turns}}}, "id": {{"0": 1, "1": 2}}}}"#),
        format!(r#"{{"messages": [{turns}, {turns}], "id": [1, 2]}}"#),
        format!("{{\n\"messages\":\n[{turns},\n{turns}]}}"),
        format!(r#"{{"messages": {{"0": null, "1": {turns}, "2": {turns}}}}}"#),
    ] {
        assert_eq!(rows_of("rows.json", &content), ["User: hi\nAssistant:[ ho$]"; 2], "{content}");
    }
    let python = turns.replace('"', "'");
    for (header, cell, parts) in [
        ("messages", &python, ["column messages: ", "as Python shows it", "orient=\"records\""]),
        ("messages", &python.replace(", {", "\n {"), ["column messages: ", "as Python shows it", "lines=True"]),
        ("dialogue", &"A: hi\nB: yo".into(), ["column dialogue is a plain text", "messages", "--text-field dialogue"]),
    ] {
        let record = format!("\"{cell}\",x\n");
        let error = read("rows.csv", format!("{header},summary\n{record}{record}")).err().unwrap();
        assert!(parts.iter().all(|part| error.contains(part)), "{header}: {error}");
    }
    let beside = r#"{"dialogue": "A: hi\nB: yo", "text": "one two three"}"#;
    assert_eq!(rows_of("rows", beside), [TWO[0]]);
}

#[test]
fn messages_with_a_list_for_each_field_are_a_conversation() {
    for row in [
        r#"{"messages": {"role": ["user", "assistant"], "content": ["hi", "ho"]}}"#,
        r#"{"id": 1, "messages": {"content": ["hi", "ho"], "role": ["user", "assistant"], "name": [null, null]}}"#,
        r#"{"conversations": {"from": ["human", "gpt"], "value": ["hi", "ho"], "weight": null}}"#,
        r#"{"prompt": {"role": ["user"], "content": ["hi"]}, "completion": {"role": ["gpt"], "content": ["ho"]}}"#,
        r#"{"prompt": {"role": ["user"], "content": ["hi"]}, "completion": "ho"}"#,
    ] {
        for name in ["rows", "rows.json"] {
            assert_eq!(rows_of(name, row), ["User: hi\nAssistant:[ ho$]"], "{name}: {row}");
            assert_eq!(rows_of(name, format!("{row}\n{row}\n")), ["User: hi\nAssistant:[ ho$]"; 2], "{name}: {row}");
            let list = format!("[\n{row},\n{row}\n]");
            assert_eq!(rows_of(name, list), ["User: hi\nAssistant:[ ho$]"; 2], "{name}: {row}");
        }
    }
    for messages in [
        r#"{"role": ["user", "assistant"], "content": ["hi"]}"#,
        r#"{"role": ["user", "assistant"], "content": ["hi", "ho"], "weight": 0}"#,
    ] {
        let error = read("rows", format!("{{\"messages\": {messages}}}\n").repeat(2)).err().unwrap();
        assert!(error.contains("not all of one length; write a list of objects"), "{messages}: {error}");
    }
    let empty = r#"{"messages": {"role": [], "content": []}, "text": "one two three"}"#;
    assert_eq!(rows_of("rows", empty), [TWO[0]]);
}

#[test]
fn numbers_are_texts_where_a_text_is_asked_for() {
    for (row, expected) in [
        (r#"{"question": "6*7?", "answer": 42}"#, "User: 6*7?\nAssistant:[ 42$]"),
        (r#"{"prompt": "6*7=", "completion": -4.5}"#, "6*7=[-4.5$]"),
        (r#"{"text": 1234}"#, "1[234]"),
    ] {
        assert_eq!(rows_of("rows", row), [expected], "{row}");
    }
    let error = read("rows", r#"{"passage": "p", "question": "q", "answer": true}"#).err().unwrap();
    assert!(error.contains("column answer is true, not a text; write it as one"), "{error}");
}

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
fn text_with_columns_is_said_to_have_them_whatever_separates_them() {
    for (separator, by) in [(",", "commas"), (";", "semicolons"), ("|", "bars")] {
        let table: String = (0..9).map(|i| format!("{i}{separator}a good one{separator}{}\n", i % 3)).collect();
        let table = format!("id{separator}review{separator}stars\n{table}");
        for name in ["rows", "rows.txt"] {
            let report = read(name, &table).unwrap().report().to_string();
            assert!(report.contains(&format!("read as text, though {by} separate columns: {name}")), "{report}");
        }
    }
    let prose = "Once, long ago, there was a king.\n".repeat(9) + &"To be, or not, to be.\n".repeat(9);
    assert!(!read("text", prose).unwrap().report().to_string().contains("separate columns"));
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
    assert!(said("{{ title }} {{ nope | string }}").contains("the row has no column nope"));
    let error = said("{{ nope }} {% for _ in range(2) %}{{ title }}{% endfor %}");
    assert!(
        error.contains("--template: the row has no column nope; of those that it has, name one: title, body"),
        "{error}"
    );
    assert!(said("{{ title.nope.more }}").contains("undefined"));
    assert_eq!(said("{{ body if nope is defined else title }} {{ body }}"), "");
}
