//! Chat templates of the usual kinds, with text that transformers 5.24 made of the same conversations
//! (`scripts/compare_chat_templates.py` compares those of real families).

use engine::chat::{ChatTemplate, Conversation, Value, messages, tools};
use std::collections::BTreeMap;

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + \
                      '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// Refuses system turns and wrong orders, calls the assistant by another name, and trims.
const STRICT: &str = "{{ bos_token }}
{% if messages[0]['role'] == 'system' %}
    {{ raise_exception('System role not supported') }}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate') }}
    {% endif %}
    {%- set role = 'model' if message.role == 'assistant' else message.role -%}
    {{ '<start>' + role + '\n' + message['content'] | trim + '<end>\n' }}
{%- endfor %}
{%- if add_generation_prompt -%}{{ '<start>model\n' }}{%- endif -%}";
/// Leaves the reasoning of earlier turns out.
const REASONING: &str = "{% for m in messages %}{% set text = m.content %}{% if m.role == 'assistant' and not loop.last \
                         and '</think>' in text %}{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}\
                         <{{ m.role }}>{{ text }}</s>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
const MARKED: &str = "{% for m in messages %}\n    {%- if m.role == 'assistant' %}\nA: {% generation %}{{ m.content }}!\
                      {% endgeneration %}\n    {%- else %}\nU: {{ m.content }}\n    {%- endif %}\n{% endfor %}";
const TOOLS: &str = "{% if tools is not none %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}{{ m.role }}:\
                     {% if m.tool_calls %}{% for call in m.tool_calls %} {{ call.function.name }}({{ call.function.arguments \
                     | tojson }}){% endfor %}{% else %} {{ m.content }}{% endif %}\n{% endfor %}";

fn template(text: &str) -> ChatTemplate {
    let special = BTreeMap::from([("bos_token".into(), "<s>".into()), ("eos_token".into(), "</s>".into())]);
    ChatTemplate::new(&[("default".into(), text.into())], special).unwrap()
}

fn conversation(turns: &[(&str, &str)]) -> Vec<Value> {
    turns.iter().map(|(role, content)| Value::from_pairs([("role", *role), ("content", *content)])).collect()
}

const ABCD: [(&str, &str); 4] = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")];

/// Each text, with what is learned of it in brackets.
fn learned(text: &str, turns: &[(&str, &str)]) -> Vec<String> {
    let (rendered, _) = Conversation::new(conversation(turns), None).render(&template(text)).unwrap();
    let shown = rendered.into_iter().map(|rendered| {
        let mut text = rendered.text;
        for range in rendered.learned.into_iter().rev() {
            text.insert(range.end, ']');
            text.insert(range.start, '[');
        }
        text
    });
    shown.collect()
}

#[test]
fn a_question_has_the_systems_words_where_training_had_them() {
    let ask = |turns: &[(&str, &str)]| Conversation::new(conversation(turns), None).question(&template(STRICT));
    let folded = ask(&[("system", "be kind"), ("user", "a")]).unwrap();
    assert_eq!(folded, "<s>\n<start>user\nbe kind\n\na<end>\n<start>model\n");
    let (trained, _) =
        Conversation::new(conversation(&[("system", "be kind"), ("user", "a"), ("assistant", "b")]), None)
            .render(&template(STRICT))
            .unwrap();
    assert!(trained[0].text.starts_with(&folded), "{trained:?}");
    let error = ask(&[("user", "a"), ("user", "b")]).unwrap_err();
    assert!(format!("{error:#}").contains("Roles must alternate"), "{error:#}");
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let chat = conversation(&ABCD);
    assert_eq!(
        template(CHATML).render(&chat[..3], None, true).unwrap(),
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        template(STRICT).render(&conversation(&[("user", " a\n"), ("assistant", "b ")]), None, false).unwrap(),
        "<s>\n<start>user\na<end>\n<start>model\nb<end>\n"
    );
    let error = format!("{:#}", template(STRICT).render(&chat[1..], None, false).unwrap_err());
    assert!(error.starts_with("the model's chat template refuses"), "{error}");
    assert!(error.contains("Roles must alternate"), "{error}");
    let call: Value = serde_json::from_str(
        r#"[{"role": "user", "content": "w?"}, {"role": "assistant", "content": null, "tool_calls": [{"function":
            {"name": "f", "arguments": "{\"town\": \"Köln\", \"a\": [1, 2.0]}"}}]}]"#,
    )
    .unwrap();
    let functions =
        tools(&serde_json::from_str(r#"[{"name": "f", "parameters": {"b": 1, "a": "<&>"}}]"#).unwrap()).unwrap();
    assert_eq!(
        template(TOOLS).render(&messages(&call).unwrap(), functions.as_ref(), false).unwrap(),
        "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"b\": 1, \"a\": \"<&>\"}}}]\n\
         user: w?assistant: f({\"town\": \"Köln\", \"a\": [1, 2.0]})"
    );
}

#[test]
fn the_assistants_turns_are_learned_and_nothing_else() {
    assert_eq!(
        learned(CHATML, &ABCD),
        ["<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>\n]<|im_start|>user\nc<|im_end|>\n\
          <|im_start|>assistant\n[d<|im_end|>\n]"]
    );
    assert_eq!(learned(MARKED, &ABCD), ["U: aA: [b!]U: cA: [d!]"]);
    // The first turn is shown otherwise once another follows, so it has a text of its own.
    let turns = [("user", "a"), ("assistant", "<think>t</think>\nb"), ("user", "c"), ("assistant", "d")];
    assert_eq!(
        learned(REASONING, &turns),
        [
            "<user>a</s>\n<assistant>[<think>t</think>\nb</s>\n]",
            "<user>a</s>\n<assistant>b</s>\n<user>c</s>\n<assistant>[d</s>\n]"
        ]
    );
}

#[test]
fn a_system_turn_goes_before_the_users_first_where_the_template_takes_none() {
    let chat = conversation(&[("system", "s"), ("user", "a"), ("assistant", "b")]);
    let (rendered, moved) = Conversation::new(chat, None).render(&template(STRICT)).unwrap();
    assert!(moved && rendered[0].text.contains("<start>user\ns\n\na<end>"), "{rendered:?}");
    let nobody = Conversation::new(conversation(&[("user", "a")]), None).render(&template(CHATML));
    assert!(nobody.unwrap_err().to_string().contains("no turn of the assistant"));
}

/// A template that knows no tools showed an empty turn in place of a call, and that was learned.
#[test]
fn a_call_that_the_template_leaves_out_is_named_and_not_learned_as_silence() {
    let call = r#"[{"role": "user", "content": "w?"}, {"role": "assistant", "content": CONTENT,
        "tool_calls": [{"function": {"name": "look_up", "arguments": {}}}]}]"#;
    let render = |content: &str, text: &str| {
        let list: Value = serde_json::from_str(&call.replace("CONTENT", content)).unwrap();
        let chat = Conversation::new(messages(&list).unwrap(), None);
        chat.render(&template(text)).map(|(rendered, _)| rendered[0].text.clone()).map_err(|error| format!("{error:#}"))
    };
    let left_out = render("\"\"", CHATML).unwrap_err();
    assert!(left_out.contains("does not show the call of \"look_up\" in message 1"), "{left_out}");
    // As in transformers, nothing cannot be put behind a text.
    assert!(render("null", CHATML).unwrap_err().contains("template refuses"));
    // DeepSeek's ask for calls in this way.
    let asks = "{% for m in messages %}{% if m['content'] is none %}{% for call in m['tool_calls'] %}<call>\
                {{ call['function']['name'] }}{% endfor %}{% else %}<{{ m['role'] }}>{{ m['content'] }}{% endif %}\
                {% endfor %}";
    assert_eq!(render("null", asks).unwrap(), "<user>w?<call>look_up");
    assert!(render("\"\"", asks).unwrap_err().contains("does not show the call"));
    assert_eq!(render("null", TOOLS).unwrap(), "user: w?assistant: look_up({})");
}

const DEEP: &str = "{% set ns = namespace() %}{% for a in range(90000) %}{%- set ns.x = [ns.x] -%}{% endfor %}";
const DOUBLED: &str =
    "{% set ns = namespace(x=[1]) %}{% for a in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";

/// Each level takes some of the stack when it is compared, printed or dropped; a node was aborted.
#[test]
fn lists_that_lie_deep_within_lists_have_room() {
    let deeper = format!("{{% set x = {}x{} %}}{{% set y = {0}y{1} %}}\n", "[".repeat(60), "]".repeat(60));
    let text = format!("{}{{% if x == y and x <= y %}}{{{{ (x ~ y) | length }}}}{{% endif %}}", deeper.repeat(400));
    let chat = Conversation::new(conversation(&ABCD), None);
    // Two lists around nothing, each bracket a byte, and what stands for nothing.
    assert_eq!(chat.question(&template(&text)).unwrap().trim(), (2 * (2 * 24_000 + "undefined".len())).to_string());
    assert!(chat.render(&template(&text)).unwrap_err().to_string().contains("shows nothing of message 1"));
}

#[test]
fn namespaces_carry_values_out_of_loops() {
    let chat = conversation(&ABCD);
    let render = |text: &str| template(text).render(&chat, None, false).map_err(|error| format!("{error:#}"));
    let text = "{% set ns = namespace(seen=[], last='') %}\n{%- for m in messages -%}\n\
                {%- set ns.seen = ns.seen + [m.content] -%}{%set ns.last= '=' if loop.last else 'no' %}\
                {%- set  ns . pair = m.role, {'role': m.role} %}{%- endfor -%}\n\
                {{ ns.seen }}{{ ns['last'] }}{{ ns.pair[1].role }}{{ ns.none is defined }}{{ 'last' in ns }}";
    assert_eq!(render(text).unwrap(), "['a', 'b', 'c', 'd']=assistantFalseTrue");
    assert_eq!(
        render("{% set ns = namespace({'a': 1}) %}{{ ns.a }}{% set ns.a = -ns.a -%}  {{ ns.a }}").unwrap(),
        "1-1"
    );
    assert!(render("{% set ns = namespace() %}{% set nt.a = 1 %}").is_err());
}

#[test]
fn a_hostile_template_ends_with_an_error() {
    let chat = conversation(&ABCD);
    for text in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{{ 'a' * 1000000000000 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ range(1000000000) | list }}",
        "{{ messages[0].content.nothing.at.all }}",
        "{% set x = [[]] %}{{ x | tojson(indent=999999999999) }}",
        "{{ '%999999999d' | format(1) }}",
        // A list that holds the last one twice: forty steps, 2^40 values to write.
        &format!("{DOUBLED}{{{{ ns.x }}}}"),
        &format!("{DOUBLED}{{{{ ns.x | tojson }}}}"),
        &format!("{DOUBLED}{{{{ ns.x | string }}}}"),
        &format!("{DOUBLED}{{{{ ns.x | reverse }}}}"),
        // A namespace that holds itself, and two that hold each other.
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns ~ '' }}{{ ns.a.a is undefined }}",
        "{% set a = namespace() %}{% set b = namespace(o=a) %}{% set a.o = [b] %}{% set b.o = [a] %}{{ a == b }}",
        // A list within a list within a list, or a macro.
        &format!("{DEEP}{{{{ ns.x }}}}"),
        &format!("{DEEP}{{{{ ns.x == [ns.x] }}}}"),
        "{% set ns = namespace() %}{% for a in range(90000) %}{% set b = ns.x %}{% macro m() %}{{ b }}{% endmacro %}\
         {% set ns.x = m %}{% endfor %}",
    ] {
        // What it says matters less than that it says it soon, and that little memory is taken.
        let result = template(text).render(&chat, None, false);
        assert!(result.as_ref().is_ok_and(|text| text.len() < 1 << 20) || result.is_err(), "{text}");
    }
    for text in
        ["{{ open", "{%}", "{%", "{% for %}", "{% include 'x' %}{% extends 'y' %}", &"{% if a %}".repeat(100_000)]
    {
        let broken = ChatTemplate::new(&[("default".into(), text.to_owned())], BTreeMap::new());
        assert!(broken.is_err() || broken.unwrap().render(&chat, None, false).is_err());
    }
}
