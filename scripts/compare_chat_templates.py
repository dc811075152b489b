#!/usr/bin/env python3
"""Chat templates as onebyte renders them, against transformers.

    pip install transformers jinja2
    cargo build --release --example render_chat
    scripts/compare_chat_templates.py DIRECTORY_OR_FILE...    # *.jinja, or tokenizer_config.json

Each template gets the same conversations: with and without a system turn, several turns, tool calls, reasoning, and
text that needs care. Both sides must print the same text, or both must refuse. Templates are not part of this
repository; the wheels of trl and axolotl on PyPI carry those of the usual families, and so does every model.
"""
import json
import pathlib
import subprocess
import sys

from transformers.utils.chat_template_utils import render_jinja_template

BINARY = pathlib.Path(__file__).parent.parent / "target/release/examples/render_chat"
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "Tells <the> weather & \"more\".",
    "parameters": {"type": "object", "properties": {"town": {"type": "string", "description": "é"}}, "required": ["town"]}}}]


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


CALL = turn("assistant", "", tool_calls=[{
    "id": "call00001", "type": "function", "function": {"name": "weather", "arguments": {"town": "Köln", "days": 2}}}])
CONVERSATIONS = {
    "one": ([turn("user", "Hi <there> & 'you'!")], None),
    "answered": ([turn("user", "Hi"), turn("assistant", "  Hello.\n")], None),
    "system": ([turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello.")], None),
    "several": ([turn("system", "Be brief."), turn("user", "1+1?"), turn("assistant", "2"), turn("user", "And\n\nmore?"),
                 turn("assistant", "3 \"é\" 😀")], None),
    "reasoning": ([turn("user", "1+1?"), turn("assistant", "<think>\nwell\n</think>\n\n2"), turn("user", "2+2?"),
                   turn("assistant", "<think>\nhm\n</think>\n\n4")], None),
    "tools": ([turn("user", "Weather?"), CALL, turn("tool", "rain", name="weather", tool_call_id="call00001"),
               turn("assistant", "Rain.")], TOOLS),
    "tools and system": ([turn("system", "Help."), turn("user", "Weather?")], TOOLS),
    "wrong order": ([turn("assistant", "I begin"), turn("assistant", "and go on")], None),
}


def templates(paths):
    for path in map(pathlib.Path, paths):
        for file in sorted(path.rglob("*.jinja")) if path.is_dir() else [path]:
            if file.suffix == ".json":
                template = json.loads(file.read_text())["chat_template"]
                yield str(file), template if isinstance(template, str) else template[0]["template"]
            else:
                yield str(file), file.read_text()


def theirs(case):
    try:
        rendered, _ = render_jinja_template(
            [case["messages"]], tools=case["tools"], chat_template=case["template"], add_generation_prompt=case["asks"],
            **case["special"])
        return {"text": rendered[0]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    cases = []
    for name, template in templates(sys.argv[1:]):
        for kind, (messages, tools) in CONVERSATIONS.items():
            for asks in (False, True):
                cases.append((name, kind, asks, {"template": template, "special": SPECIAL, "messages": messages,
                                                 "tools": tools, "asks": asks}))
    lines = "".join(json.dumps(case) + "\n" for *_, case in cases)
    ours = subprocess.run([BINARY], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
    counts, failed = {}, set()
    for (name, kind, asks, case), line in zip(cases, ours, strict=True):
        mine, reference = json.loads(line), theirs(case)
        same = mine == reference if "text" in reference else "error" in mine
        counts[same, "text" in reference] = counts.get((same, "text" in reference), 0) + 1
        if not same:
            failed.add(name)
            print(f"{name}, {kind}, asks={asks}:\n  theirs {reference}\n  ours   {mine}")
    names = {name for name, *_ in cases}
    print(f"{len(names)} templates, {len(names - failed)} of them the same throughout; renderings: "
          f"{counts.get((True, True), 0)} equal, {counts.get((True, False), 0)} refused by both, "
          f"{counts.get((False, True), 0) + counts.get((False, False), 0)} different")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
