"""Compares `qzo eval` with lm-evaluation-harness row by row, on a dense model in float32.

lm-eval runs its own tasks over local files (dataset_path: json), qzo the same rows with --predictions:
  sentiment   two choices of one token, the rows of --sentiment
  topic       four choices of several tokens and different lengths, the same for every row
  copa        two choices of a row's own, qzo's built-in task
  squad       answers generated up to a line end, qzo's built-in task
and rules:
  acc         the highest log-probability; acc_norm, per character: lm-eval's
  accuracy    the highest mean log-probability per token, MeZO's; the reference is written below with transformers
  answer      the generated text; exact_match and f1 with SQuAD v1.1's normalization
Also reads the file of --output with lm-eval's make_table. Prints a table in Markdown; exits 1 where a row differs and is
no tie, that is, where the two candidates' scores, or two best tokens' logits, are further apart than 1e-4.

Checked with: lm-eval 0.4.13, torch 2.15.0, transformers 5.24.0, datasets 5.2.0, accelerate.

    python scripts/checks/lm_eval_agreement.py models/smollm2-f16 --sentiment sentiment_dev.jsonl --qzo target/release/qzo
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table

TIE = 1e-4
SENTIMENT = [" terrible", " great"]
TOPICS = [" cooking", " the history of ancient Rome", " professional football", " astronomy and space travel"]
SUBJECTS = [
    ["The soup", "This recipe", "The dough", "A good sauce", "The oven"],
    ["Julius Caesar", "The senate", "The emperor", "A legion of soldiers", "The aqueduct"],
    ["The goalkeeper", "Our striker", "The referee", "The home team", "The coach"],
    ["The telescope", "A distant galaxy", "The rocket", "The astronaut", "This comet"],
]
PREDICATES = [
    ["needs more salt and a little butter.", "should rest for ten minutes before it is served.", "was too hot."],
    ["shaped the republic for two hundred years.", "crossed the river with an army.", "was rebuilt in stone."],
    ["lost the ball near the end of the match.", "waited for the whistle.", "will play again on Sunday."],
    ["was seen above the desert before dawn.", "moves faster than anyone had computed.", "orbits the sun."],
]
# Premise, question, the right alternative and the wrong one.
CAUSES = [
    ("The man turned on the faucet.", "effect", "Water flowed from the spout.", "The toilet filled with sand."),
    ("The girl found a bug in her cereal.", "effect", "She lost her appetite.", "She poured milk in the bowl."),
    ("The woman retired.", "effect", "She received her pension.", "She paid off her neighbour's old mortgage."),
    ("My body cast a shadow over the grass.", "cause", "The sun was rising.", "The grass was cut."),
    ("The pond froze over.", "effect", "People skated on it.", "People swam in it all afternoon."),
    ("The driver got a flat tire.", "cause", "He drove over a nail.", "He went over the speed limit."),
    ("The vase broke.", "cause", "It fell from the shelf.", "It was filled with fresh yellow flowers."),
    ("I forgot my umbrella.", "effect", "I got wet in the rain.", "I ate."),
    ("The students cheered.", "cause", "Their team won the game.", "The library closed early for repairs."),
    ("The lamp went dark.", "cause", "The bulb burned out.", "Somebody painted the wall behind it white."),
    ("She pressed the brake.", "effect", "The car slowed down.", "The radio played a song that she liked."),
    ("The bread burned.", "cause", "It stayed in the oven too long.", "It was sliced."),
    ("He studied every night.", "effect", "He passed the examination.", "He lost his keys."),
    ("The dog barked.", "cause", "A stranger knocked on the door.", "It slept."),
    ("The river flooded the town.", "cause", "It rained for two weeks.", "The bridge was painted green last summer."),
    ("The child ate too much candy.", "effect", "Her stomach hurt.", "Her shoes were new and very shiny."),
    ("The plants died.", "cause", "Nobody watered them.", "They stood near a window in the kitchen."),
    ("The thief heard a siren.", "effect", "He ran away.", "He sat down to read the newspaper slowly."),
    ("The ice cream melted.", "cause", "It was left in the sun.", "It had nuts."),
    ("The phone rang at midnight.", "effect", "I woke up.", "The moon rose over the quiet harbour at last."),
]
# Title, context, and questions with their answers.
PASSAGES = [
    ("Amazon", "The Amazon rainforest covers seven million square kilometres. Brazil holds sixty percent of it, followed "
     "by Peru with thirteen percent.", [("Which country holds most of the rainforest?", ["Brazil"]),
     ("How much of it does Peru hold?", ["thirteen percent", "13%"]),
     ("How large is the rainforest?", ["seven million square kilometres"])]),
    ("Titanic", "In April 1912 the liner Titanic struck an iceberg on her first voyage from Southampton to New York.",
     [("When did it happen?", ["April 1912", "1912"]), ("What did the Titanic strike?", ["an iceberg", "iceberg"]),
     ("Where was she going?", ["New York", "to New York"])]),
    ("Photosynthesis", "Plants take in carbon dioxide and water and release oxygen. The pigment that catches the light is "
     "called chlorophyll.", [("What do plants release?", ["oxygen"]), ("What is the pigment called?", ["chlorophyll"]),
     ("What do plants take in?", ["carbon dioxide and water"])]),
    ("Great Wall", "Most of the wall that stands today was built under the Ming dynasty, to keep out the nomads of the "
     "steppe.", [("Which dynasty built most of it?", ["the Ming dynasty", "Ming"]),
     ("Whom should it keep out?", ["the nomads of the steppe", "nomads"]), ("What is the text about?", ["the wall"])]),
    ("Marie Curie", "Marie Curie was born in Warsaw in 1867. She discovered polonium and radium with her husband Pierre.",
     [("Where was she born?", ["Warsaw"]), ("What did she discover?", ["polonium and radium"]),
     ("Who was her husband?", ["Pierre", "Pierre Curie"])]),
    ("Moon", "Apollo 11 landed on the moon on 20 July 1969. Neil Armstrong was the first to walk on it; Michael Collins "
     "stayed in orbit.", [("Who walked on the moon first?", ["Neil Armstrong"]),
     ("Who stayed in orbit?", ["Michael Collins"]), ("When did Apollo 11 land?", ["20 July 1969"])]),
    ("Honey bee", "A queen bee lays up to two thousand eggs a day. The workers live for six weeks in summer.",
     [("How many eggs does a queen lay a day?", ["up to two thousand", "two thousand"]),
     ("How long do workers live in summer?", ["six weeks"]), ("Who lays the eggs?", ["a queen bee", "the queen"])]),
    ("Printing", "Johannes Gutenberg printed the Bible in Mainz around 1455 with movable type of metal.",
     [("Who printed the Bible?", ["Johannes Gutenberg", "Gutenberg"]), ("Where was it printed?", ["Mainz", "in Mainz"]),
     ("What was the type made of?", ["metal"])]),
    ("Iceland", "Iceland has about 380,000 people, most of whom live in or near Reykjavik. Its parliament was founded in "
     "930.", [("How many people live in Iceland?", ["about 380,000", "380,000"]),
     ("When was the parliament founded?", ["930", "in 930"]), ("Where do most people live?", ["Reykjavik"])]),
    ("Chess", "In 1997 the computer Deep Blue beat Garry Kasparov, who was then world champion, in a match of six games.",
     [("Who lost the match?", ["Garry Kasparov", "Kasparov"]), ("How many games were played?", ["six", "six games"]),
     ("What was the computer called?", ["Deep Blue"])]),
]

# Beside the tasks' YAML: SQuAD v1.1's evaluate.py.
SQUAD = '''
import collections, re, string

def normalize(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\\b(a|an|the)\\b", " ", text).split())

def f1(answer, gold):
    answer, gold = normalize(answer).split(), normalize(gold).split()
    same = sum((collections.Counter(answer) & collections.Counter(gold)).values())
    return 2 * same / (len(answer) + len(gold)) if same else 0.0

def process_results(doc, results):
    golds = doc["answers"]["text"]
    return {
        "exact_match": max(float(normalize(results[0]) == normalize(gold)) for gold in golds),
        "f1": max(f1(results[0], gold) for gold in golds),
    }
'''


def topics() -> list[dict]:
    return [
        {"text": f"{subject} {predicate}", "label": label}
        for label, (subjects, predicates) in enumerate(zip(SUBJECTS, PREDICATES))
        for subject in subjects
        for predicate in predicates
    ]


def copa() -> list[dict]:
    """Each pair in both orders, and once more with a longer premise."""
    rows = []
    for premise, question, right, wrong in CAUSES:
        later = f"Late that evening, {premise[0].lower() if premise[0] != 'I' else 'I'}{premise[1:]}"
        for premise, choices, label in [
            (premise, [right, wrong], 0), (premise, [wrong, right], 1), (later, [wrong, right], 1),
        ]:
            joined = {"effect": "so", "cause": "because"}[question]
            options = [c if c.startswith("I ") else c[0].lower() + c[1:] for c in choices]
            rows.append({
                "premise": premise, "question": question, "choice1": choices[0], "choice2": choices[1], "label": label,
                "prompt": f"{premise.removesuffix('.')} {joined}", "options": options,
            })
    return rows


def squad() -> list[dict]:
    return [
        {"title": title, "context": context, "question": question, "answers": {"text": answers}}
        for title, context, questions in PASSAGES
        for question, answers in questions
    ]


CHOICE = {"output_type": "multiple_choice", "doc_to_target": "{{label}}",
          "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]}


def fixed(choices: list[str]) -> dict:
    return CHOICE | {"doc_to_choice": [choice.strip() for choice in choices]}


def tasks(sentiment: list[dict]) -> dict[str, tuple[list[dict], dict, list[str]]]:
    """Name -> rows, lm-eval's task, qzo's arguments."""
    def arguments(prompt: str, choices: list[str]) -> list[str]:
        return ["--prompt", prompt] + [arg for choice in choices for arg in ("--choice", choice)]

    generation = {
        "output_type": "generate_until",
        "doc_to_text": "Title: {{title}}\nContext: {{context}}\nQuestion: {{question}}\nAnswer:",
        "doc_to_target": "{{answers.text[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 50, "do_sample": False},
        "process_results": "!function squad.process_results",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("exact_match", "f1")
        ],
    }
    about = "{text}\nThis is about"
    return {
        "sentiment": (sentiment, fixed(SENTIMENT) | {"doc_to_text": "{{text}} It was"},
                      arguments("{text} It was", SENTIMENT)),
        "topic": (topics(), fixed(TOPICS) | {"doc_to_text": "{{text}}\nThis is about"}, arguments(about, TOPICS)),
        "copa": (copa(), CHOICE | {"doc_to_text": "{{prompt}}", "doc_to_choice": "{{options}}"}, ["--task", "copa"]),
        "squad": (squad(), generation, ["--task", "squad"]),
    }


def write_task(folder: Path, name: str, rows: list[dict], task: dict) -> Path:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"task": f"qzo_{name}", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}},
              "test_split": "test", "metadata": {"version": 1.0}} | task
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / f"{name}.yaml").write_text(text.replace("'!function squad.process_results'", "!function squad.process_results"))
    return data


def prompt_and_options(name: str, row: dict) -> tuple[str, list[str]]:
    match name:
        case "sentiment":
            return f"{row['text']} It was", SENTIMENT
        case "topic":
            return f"{row['text']}\nThis is about", TOPICS
        case _:
            return row["prompt"], [f" {option}" for option in row["options"]]


@torch.no_grad()
def mezo_scores(lm: HFLM, prompt: str, options: list[str]) -> list[float]:
    """Mean log-probability of each option's tokens after the prompt (Malladi et al. 2023)."""
    scores = []
    start = len(lm.tokenizer(prompt)["input_ids"])
    for option in options:
        ids = torch.tensor([lm.tokenizer(prompt + option)["input_ids"]])
        log_probs = lm.model(ids).logits[0, :-1].float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        scores.append(log_probs[start - 1 :].mean().item())
    return scores


@torch.no_grad()
def least_gap(lm: HFLM, prompt: str) -> float:
    """The smallest difference between the two best logits in 50 greedy steps."""
    ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
    out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=50, do_sample=False,
                            output_logits=True, return_dict_in_generate=True)
    best = [step[0].float().topk(2).values for step in out.logits]
    return min((first - second).item() for first, second in best)


def run_qzo(qzo: str, model: str, data: Path, arguments: list[str], results: Path) -> dict:
    command = [qzo, "eval", model, "--data", str(data), *arguments, "--predictions", "--json", "--quiet",
               "--device", "cpu", "--dtype", "f32", "--output", str(results)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def best(scores: list[float]) -> int:
    return max(range(len(scores)), key=lambda i: scores[i])


def compare(got: list[int], scores: list[list[float]]) -> tuple[int, int]:
    """Rows with the same choice, and rows that differ in a tie."""
    pairs = [(choice, best(of_row), of_row) for choice, of_row in zip(got, scores, strict=True)]
    same = sum(choice == want for choice, want, _ in pairs)
    ties = sum(choice != want and of_row[want] - of_row[choice] < TIE for choice, want, of_row in pairs)
    return same, ties


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="directory of a dense model")
    parser.add_argument("--sentiment", type=Path, required=True, help="JSONL rows with text and label")
    parser.add_argument("--qzo", default="target/release/qzo")
    parser.add_argument("--rows", type=int, default=200, help="number of sentiment rows")
    parser.add_argument("--batch-size", type=int, default=8, help="of lm-eval")
    args = parser.parse_args()

    sentiment = [json.loads(line) for line in args.sentiment.read_text().splitlines()[: args.rows]]
    table, failed = [], False
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "squad.py").write_text(SQUAD)
        specs = tasks(sentiment)
        data = {name: write_task(folder, name, rows, task) for name, (rows, task, _) in specs.items()}
        ours = {name: run_qzo(args.qzo, args.model, data[name], arguments, folder / f"results_{name}.json")
                for name, (_, _, arguments) in specs.items()}
        lm = HFLM(pretrained=args.model, dtype="float32", device="cpu", batch_size=args.batch_size)
        theirs = simple_evaluate(lm, tasks=[f"qzo_{name}" for name in specs], bootstrap_iters=0,
                                 task_manager=TaskManager(include_path=str(folder)))
        for name, (rows, _, _) in specs.items():
            got, metrics = ours[name], theirs["results"][f"qzo_{name}"]
            samples = sorted(theirs["samples"][f"qzo_{name}"], key=lambda sample: sample["doc_id"])
            saved = json.loads((folder / f"results_{name}.json").read_text())
            print(make_table(saved), flush=True)
            (of_file,) = saved["results"].values()
            if name == "squad":
                texts = [sample["filtered_resps"][0].strip() for sample in samples]
                differ = [sample["doc"] for sample, text, answer in zip(samples, texts, got["answers"], strict=True)
                          if text != answer]
                prompts = ["Title: {title}\nContext: {context}\nQuestion: {question}\nAnswer:".format(**d) for d in differ]
                ties = sum(least_gap(lm, prompt) < TIE for prompt in prompts)
                found = [("answer", len(texts) - len(differ), ties)]
                pairs = [("exact_match", got["accuracy"]), ("f1", got["f1"])]
            else:
                sums = [[ll for ll, _ in sample["filtered_resps"]] for sample in samples]
                options = [prompt_and_options(name, row) for row in rows]
                per_character = [[ll / len(o.strip()) for ll, o in zip(lls, of_row, strict=True)]
                                 for lls, (_, of_row) in zip(sums, options, strict=True)]
                mezo = [mezo_scores(lm, prompt, of_row) for prompt, of_row in options]
                found = [("acc", *compare(got["acc_predictions"], sums)),
                         ("acc_norm", *compare(got["acc_norm_predictions"], per_character)),
                         ("accuracy", *compare(got["predictions"], mezo))]
                pairs = [("acc", got["acc"]), ("acc_norm", got["acc_norm"])]
            for rule, same, ties in found:
                table.append((name, rule, len(rows), same, ties))
                failed |= same + ties < len(rows)
            for metric, value in pairs:
                if all(same == len(rows) for _, same, _ in found):
                    failed |= abs(metrics[f"{metric},none"] - value) > 1e-9
                failed |= of_file[f"{metric},none"] != value
                print(f"{name} {metric}: qzo {value:.4f}, lm-eval {metrics[f'{metric},none']:.4f}")

    print("\n| task | rule | rows | same | ties | agreement |\n|---|---|---|---|---|---|")
    for name, rule, rows, same, ties in table:
        print(f"| {name} | {rule} | {rows} | {same} | {ties} | {same / rows:.1%} |")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
