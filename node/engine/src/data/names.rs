//! Names of columns that are read.

/// What a row may be, for people.
pub const FORMS: &str = "text; prompt and completion; messages; conversations; instruction (or question) and output \
                         (or answer); prompt, choices (or options) and answer. Other columns: --text-field <name>, or \
                         --template '…{{ name }}…'";
pub const MESSAGES: [&str; 5] = ["messages", "conversations", "conversation", "dialogue", "contents"];
pub const TEXTS: [&str; 2] = ["text", "content"];
/// What is asked, what may answer it, and whether the two say more of a row than a text beside them does. Other pairs
/// are chance: the user of a post, and its target.
pub const PAIRS: [(&str, &[&str], bool); 7] = [
    ("instruction", &["output", "response", "answer", "completion", "target"], true),
    ("question", &["answer", "response", "output", "completion"], true),
    ("prompt", &["response", "answer", "output", "target"], true),
    ("query", &["response", "answer", "output"], false),
    ("input", &["output", "response", "target", "answer"], false),
    ("inputs", &["targets", "outputs"], false),
    ("user", &["assistant"], false),
];
/// What may answer a prompt that is messages.
pub const ANSWERS: [&str; 5] = ["completion", "response", "answer", "output", "target"];
/// What a question may be about.
pub const CONTEXT: [&str; 4] = ["input", "context", "passage", "article"];
/// The third is Gemini's.
pub const SYSTEM: [&str; 4] = ["system", "system_prompt", "systeminstruction", "system_instruction"];
/// What may be asked before choices, and what may name the right one.
pub const CHOSEN_FROM: [&str; 4] = ["prompt", "question", "query", "instruction"];
pub const RIGHT: [&str; 4] = ["answer", "answerkey", "label", "correct"];

/// Whether a column of this name is read.
pub fn is_known(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    let name = name.as_str();
    is_text(name) || is_messages(name) || name == "choices"
}

/// Whether a column of this name is read, and holds messages.
pub fn is_messages(name: &str) -> bool {
    MESSAGES.contains(&name.trim().to_lowercase().as_str())
}

/// Whether a column of this name is read, and holds a text.
pub fn is_text(name: &str) -> bool {
    let name = name.trim().to_lowercase();
    let is_in = |(asked, answered, _): &(&str, &[&str], bool)| *asked == name || answered.contains(&name.as_str());
    TEXTS.contains(&name.as_str()) || PAIRS.iter().any(is_in)
}
