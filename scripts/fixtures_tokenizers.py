"""Writes tests/fixtures/tokenizers: tiny tokenizers, token ids, rendered chats and metrics, all from
outside references (tokenizers, sentencepiece, transformers, numpy-free Philox).

    pip install tokenizers transformers sentencepiece protobuf jinja2
    python scripts/fixtures_tokenizers.py
"""

import inspect
import io
import json
import re
import string
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaTokenizerFast, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import Qwen2Converter, TikTokenConverter
from transformers.utils.chat_template_utils import render_jinja_template

OUT = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "tokenizers"
VOCAB_SIZE = 600

CORPUS = """
The film is a small wonder: it was made in 1987 by three friends who had 42 dollars, one camera and
no script. They're proud of it, and we've seen why. I'd say it's the best they'll ever do, isn't it?
"Nothing happens," she said, "and then everything happens at once." The critics weren't convinced...
A plane flew over the harbour; the children were running, laughing, shouting and singing all the way.
def forward(self, x):
    if x is None:
        return 0.5 * (self.scale + 1e-3)
\tfor i in range(10000): print(i, end="\\n\\n")
Les élèves étaient très contents d'être là, même où il pleuvait. Größe, Straße, Übung, weiß, über.
Это был очень хороший фильм, и мы его любим. Ένα μικρό θαύμα. 今日はとても良い天気ですね。我们都喜欢这部电影。
The quick brown fox jumps over the lazy dog. HELLO WORLD, Hello World, hello world, HelloWorld, helloWorld.
In 2024 there were 1234567 visitors, 3.14159 of them per second (or so), i.e. 99% more than in 2023!
""".strip().split("\n")

TEXTS = [
    "",
    " ",
    "  ",
    "    four leading spaces",
    "two  inner and trailing  ",
    "hello world",
    "Hello, World!",
    "HELLO WORLD'S HelloWorld helloWorld's",
    "it's they'll I'D WE'VE don't 'tis",
    "1", "12", "123", "1234", "1234567890", "3.14159 1e-3 99% 2024-01-02", "a1b22c333d4444", "٣٤٥ ½ Ⅷ ²",
    "\n", "\n\n", "\r\n", "line\nline\n\nline\r\n\r\n  line", " \n \n", "tab\tand\t\ttabs\t",
    "    def f(x):\n        return x**2  # café\n\n\n\tpass\n",
    "élève Größe naïve cafe\u0301 e\u0301\u0302 ﬁ Å Å",
    "Это хороший фильм", "今日は良い天気", "我们喜欢2024年的电影。", "مرحبا بالعالم", "हिन्दी में", "ไทย", "한국어 텍스트",
    "😀", "👩‍👩‍👧‍👦 family 🇫🇷 flag 👍🏽", "𝕬𝖇𝖈 𐐷", "\u200b\u00a0\u3000x\ufeff", "a\u0000b\u0001",
    "...!!!???  ,;: -- — – “quoted” (a[b]{c}) <tag/> a/b\\c ~`^|$+=@#&*_",
    "http://example.com/path?x=1&y=%20z#frag", "path/to/file.rs://\n/\n",
    "<|im_start|>user\nHi<|im_end|>", "<s>hello</s>", " <s> x </s> ", "<unk>", "a<|im_end|>b<|im_end|>", "<|user|>hey <|user|>",
    "<0x0A>", "▁under▁score", "Ġweird Ċ", "x" * 70, "ab" * 40, " " * 40 + "x", "Τέλος ΣΊΣΥΦΟΣ", "don’t ‘quote’",
    "SELECT * FROM t WHERE a<>'b';", "\u2028para\u2029sep\x85nel\x0bvt\x0cff",
]

BYTE_LEVEL_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)


def byte_level_references():
    """name of llama.cpp → (pre-tokenizer, normalizer, ignore_merges, BOS added), as the models' own files have them."""
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    sequence = pre_tokenizers.Sequence
    llama3 = inspect.signature(TikTokenConverter).parameters["pattern"].default
    converter = SimpleNamespace(original_tokenizer=SimpleNamespace())
    qwen2 = Qwen2Converter.converted(converter, {"a": 0, "b": 1, "ab": 2}, [("a", "b")])
    # Mistral-Nemo, GPT-4o, DeepSeek-V3 and DeepSeek-Coder: their tokenizer.json.
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    head, tail = r"[^\r\n\p{L}\p{N}]?", r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    tekken = f"{head}{upper}*{lower}+|{head}{upper}+{lower}*|" + r"\p{N}" + tail
    gpt4o = f"{head}{upper}*{lower}+{contraction}|{head}{upper}+{lower}*{contraction}|" + r"\p{N}{1,3}" + tail
    deepseek = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
    return {
        "gpt-2": (gpt2, None, False, False),
        "smollm": (sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]), None, False, False),
        "llama-bpe": (sequence([split(llama3), bare]), None, True, True),
        "qwen2": (qwen2.pre_tokenizer, qwen2.normalizer, False, False),
        "tekken": (sequence([split(tekken), bare]), None, True, True),
        "gpt-4o": (sequence([split(gpt4o), bare]), None, False, False),
        "deepseek-v3": (sequence([split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(deepseek), bare]), None, False, False),
        "deepseek-coder": (
            sequence([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"),
                      split("[一-龥ࠀ-一가-퟿]+"), pre_tokenizers.Digits(individual_digits=True), bare]),
            None, False, False,
        ),
    }


def byte_level(pre, reference):
    pre_tokenizer, normalizer, ignore_merges, add_bos = reference
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=BYTE_LEVEL_SPECIALS, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    model["ignore_merges"] = ignore_merges
    if ignore_merges:
        # A word of the vocabulary that merges do not reach.
        model["vocab"]["Ġplane"] = len(model["vocab"])
    whole = json.loads(tokenizer.to_str())
    whole["model"] = model
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.add_tokens([AddedToken("<|user|>", normalized=False)])
    bos = BYTE_LEVEL_SPECIALS[0]
    if add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])

    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.get)
    types = [3 if t in BYTE_LEVEL_SPECIALS else 4 if t == "<|user|>" else 1 for t in tokens]
    gguf = {
        "model": "gpt2", "pre": pre, "tokens": tokens, "token_types": types,
        "merges": [" ".join(pair) for pair in model["merges"]],
        "bos": 0, "eos": 2, "unk": 0, "pad": 2,
        "add_bos": None if add_bos else False, "add_space_prefix": False,
    }
    return tokenizer, gguf


def merges_alone(out):
    """OPT's files, which are GPT-2's: no tokenizer.json. Gives what transformers reads from them."""
    tokenizer, _ = byte_level("gpt-2", byte_level_references()["gpt-2"])
    model = json.loads(tokenizer.to_str())["model"]
    write(out / "vocab.json", model["vocab"])
    pairs = [" ".join(pair) for pair in model["merges"]]
    (out / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]) + "\n", encoding="utf-8")
    text, start, end = BYTE_LEVEL_SPECIALS
    bos = {"__type": "AddedToken", "content": text, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    write(out / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "bos_token": bos, "eos_token": end,
                                          "pad_token": start, "add_bos_token": True, "add_prefix_space": False})
    write(out / "special_tokens_map.json", {"unk_token": end})
    return AutoTokenizer.from_pretrained(out).backend_tokenizer


def sentence_piece():
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=written, vocab_size=VOCAB_SIZE, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.98, user_defined_symbols=["<|user|>"], num_threads=1, minloglevel=2,
    )
    path = OUT / "tokenizer.model"
    path.write_bytes(written.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    fast = LlamaTokenizerFast(str(path), legacy=True, add_prefix_space=True)
    path.unlink()
    n = processor.get_piece_size()
    kind = lambda i: (2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1)
    gguf = {
        "model": "llama", "pre": "default",
        "tokens": [processor.id_to_piece(i) for i in range(n)],
        "scores": [processor.get_score(i) for i in range(n)],
        "token_types": [4 if processor.id_to_piece(i) == "<|user|>" else kind(i) for i in range(n)],
        "bos": 1, "eos": 2, "unk": 0, "add_bos": True, "add_space_prefix": True,
    }
    # The library itself, where a text has nothing that only the added tokens of the fast tokenizer read.
    for text in TEXTS:
        if "<" not in text and text:
            expected, got = processor.encode(text), fast.encode(text, add_special_tokens=False)
            if expected != got:
                print(f"sentencepiece and transformers differ on {text!r}: {expected} {got}")
    return fast, gguf


def cases(backend):
    rows = []
    for text in TEXTS:
        ids = backend.encode(text, add_special_tokens=False).ids
        rows.append({
            "text": text, "ids": ids, "with_special": backend.encode(text, add_special_tokens=True).ids,
            "decoded": backend.decode(ids, skip_special_tokens=False),
            "without_special": backend.decode(ids, skip_special_tokens=True),
        })
    return rows


def write(path, value, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, **options) + "\n", encoding="utf-8")


# --- chats ---------------------------------------------------------------------------------------

CHATML_WITH_DEFAULT_SYSTEM = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

HEADERS = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}
    {{- 'Environment: ipython\\n' }}
{%- endif %}
{{- system_message + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

INSTRUCTION = """{%- if messages[0]["role"] == "system" -%}
    {%- set system_message = messages[0]["content"] -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- set ns = namespace(index=0) -%}
{{- bos_token -}}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (ns.index % 2 == 0) -%}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
    {%- endif -%}
    {%- set ns.index = ns.index + 1 -%}
    {%- if message["role"] == "user" -%}
        {%- if loop.last and system_message is defined -%}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" -}}
        {%- else -%}
            {{- "[INST] " ~ message["content"] ~ "[/INST]" -}}
        {%- endif -%}
    {%- elif message["role"] == "assistant" -%}
        {{- " " + message["content"].strip() + eos_token -}}
    {%- else -%}
        {{- raise_exception("Only user and assistant roles are supported!") -}}
    {%- endif -%}
{%- endfor -%}
"""

CHATML_WITH_TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a model.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LINES = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

METHODS = """{%- macro show(role, text='none') -%}<{{ role.upper() }}|{{ text }}>{%- endmacro -%}
{%- for m in messages -%}
    {%- if m.role == 'tool' -%}{%- continue -%}{%- endif -%}
    {%- if m.content.startswith('STOP') -%}{%- break -%}{%- endif -%}
    {{- show(m['role'], m.content.replace('  ', ' ').rstrip('!').split(' ')[-1]) -}}
    {{- m.get('content')[:3] -}}{{- m.items() | list | length -}}
    {{- loop.index ~ '/' ~ loop.length ~ (', ' if not loop.last else '') -}}
{%- endfor -%}
{{- messages | map(attribute='role') | join('+') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages[0] | tojson }}
{{- 'yes' if bos_token is defined and bos_token else 'no' }} {{ missing is defined }} {{ [1, 2.5, none, true, 'é<>&'] | tojson }} {{ {'a': {'b': []}} | tojson(indent=4) }}
"""

TAGS = """{% for message in messages %}
    {%- if message.role == 'assistant' -%}
        {% generation %}{{ message.content }}{% endgeneration %}
    {%- else -%}
        {{ message.content }} 
    {%- endif %}
{% endfor %}"""

CHATS = {
    "one turn": [("user", "Hello, who are you?")],
    "with system": [("system", " Be brief. "), ("user", "Hi  there!"), ("assistant", " Hello. "), ("user", "2 < 3 & \"a\"?\nYes é 😀")],
    "three turns": [("user", "a"), ("assistant", "b"), ("user", "STOP c!"), ("assistant", "d")],
    "two users": [("user", "a"), ("user", "b")],
    "tools": [("user", "a"), ("tool", "1"), ("tool", "2"), ("assistant", "3")],
}


def chats():
    templates = {
        "chatml, default system": (CHATML_WITH_DEFAULT_SYSTEM, None, "<|im_end|>"), "headers": (HEADERS, "<|begin_of_text|>", "<|eot_id|>"),
        "instruction": (INSTRUCTION, "<s>", "</s>"), "chatml, tools": (CHATML_WITH_TOOLS, None, "<|im_end|>"),
        "lines": (LINES, "<s>", "</s>"), "methods": (METHODS, "<s>", "</s>"), "generation tags": (TAGS, None, None),
    }
    rows = []
    for name, (template, bos, eos) in templates.items():
        for chat, turns in CHATS.items():
            messages = [{"role": role, "content": content} for role, content in turns]
            row = {"name": f"{name}: {chat}", "template": template, "messages": messages,
                   "add_generation_prompt": len(turns) % 2 == 1, "bos_token": bos, "eos_token": eos}
            special = {k: v for k, v in (("bos_token", bos), ("eos_token", eos)) if v is not None}
            try:
                rendered, _ = render_jinja_template(
                    conversations=[messages], chat_template=template, add_generation_prompt=row["add_generation_prompt"], **special)
                row["rendered"] = rendered[0]
            except Exception as error:  # raise_exception
                row["error"] = str(error)
            rows.append(row)
    return rows


# --- answers -------------------------------------------------------------------------------------

def normalize_answer(s):
    """As in SQuAD's evaluate-v1.1.py."""
    s = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", s).split())


def f1_score(prediction, gold):
    prediction, gold = normalize_answer(prediction).split(), normalize_answer(gold).split()
    same = sum((Counter(prediction) & Counter(gold)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(prediction), same / len(gold)
    return 2 * precision * recall / (precision + recall)


def metrics():
    pairs = [
        ("Denver Broncos", ["Denver Broncos", "The Denver Broncos"]), (" the  Broncos! ", ["Denver Broncos"]),
        ("a an the", ["the"]), ("", [""]), ("x", [""]), ("The U.S.A.", ["USA", "United States"]), ("re-enter a-z", ["reenter az"]),
        ("1,000 km", ["1000 km", "1000"]), ("the the cat cat", ["cat", "cat cat cat"]), ("Thé café", ["café thé"]),
        ("a–b the—end", ["b end"]), ("another theory", ["theory"]), ("under_score a_b", ["underscore ab"]), ("42", ["forty-two", "42."]),
        ("Ein ΣΊΣΥΦΟΣ", ["σίσυφος"]), ("in\tthe\nend", ["in end"]),
    ]
    return [
        (p, golds, float(any(normalize_answer(g) == normalize_answer(p) for g in golds)), max(f1_score(p, g) for g in golds))
        for p, golds in pairs
    ]


# --- orders --------------------------------------------------------------------------------------

def philox4x32_10(c, k):
    c, k, word = list(c), list(k), 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & word, (a >> 32) ^ c[3] ^ k[1], a & word]
        k = [(k[0] + 0x9E3779B9) & word, (k[1] + 0xBB67AE85) & word]
    return c


def permutation(seed, epoch, stream, n):
    def bits(row):
        low, high, *_ = philox4x32_10([row, epoch & 0xFFFFFFFF, epoch >> 32, stream], [seed & 0xFFFFFFFF, seed >> 32])
        return high << 32 | low
    return sorted(range(n), key=bits)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for pre, reference in byte_level_references().items():
        tokenizer, gguf = byte_level(pre, reference)
        write(OUT / f"{pre}.json", {"gguf": gguf, "cases": cases(tokenizer)})
        if pre == "smollm":
            # As transformers saves it; padding and truncation are what a training run may leave behind.
            fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>",
                                           chat_template=CHATML_WITH_DEFAULT_SYSTEM)
            fast.save_pretrained(OUT / "smollm")
            path = OUT / "smollm" / "tokenizer.json"
            saved = json.loads(path.read_text())
            saved["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
            write(path, saved)
    write(OUT / "opt.json", {"cases": cases(merges_alone(OUT / "opt"))})
    fast, gguf = sentence_piece()
    write(OUT / "llama.json", {"gguf": gguf, "cases": cases(fast.backend_tokenizer)})
    fast.save_pretrained(OUT / "llama")
    (OUT / "llama" / "tokenizer.model").unlink(missing_ok=True)
    write(OUT / "chats.json", chats(), indent=1)
    write(OUT / "squad_metrics.json", metrics(), indent=1)
    print("epoch 0:", permutation(0x123456789ABCDEF0, 0, 2, 10))
    print("epoch 1:", permutation(0x123456789ABCDEF0, 1, 2, 10))
    print("split:", permutation(0, 0, 3, 10))


if __name__ == "__main__":
    main()
