"""Records a fine-tuning run as docs/run.svg, the picture in the README: runs the commands below in a terminal of
its own and draws the lines that stand in it at the end.

    python scripts/bench/record_run.py target/release/qzo docs/run.svg

Run it in the root of the repository, with the model of scripts/get_model.sh in models/. Nothing is edited: the
picture has every line that the program leaves on a terminal. Takes two minutes on two cores. Needs pyte.
"""

import argparse
import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from html import escape
from pathlib import Path

import pyte

MODEL = "models/SmolLM2-135M-Instruct.Q4_1.gguf"
TUNED = f"runs/smollm2-sentiment/final/{Path(MODEL).name}"
TASK = """--data configs/data/sentiment_dev.jsonl \\
    --prompt "{text} It was" --choice " terrible" --choice " great\""""
COMMANDS = [
    f"qzo eval {MODEL} {TASK}",
    "qzo finetune --config configs/smollm2-sentiment.toml --set train.logging_steps=25",
    f"qzo eval {Path(TUNED).parent} {TASK}",
    f"stat -c '%s bytes  %n' {MODEL} \\\n    {TUNED}",
]
COLUMNS, LINES = 100, 200
WIDTH, HEIGHT, MARGIN, BAR = 7.83, 19, 18, 34  # of a character of 13 px; of the window's edge and its bar
COLORS = {"red": "#ff7b72", "green": "#7ee787", "brown": "#e3b341", "blue": "#79c0ff", "cyan": "#76e3ea"}


def run(command: str, screen: pyte.Screen, stream: pyte.ByteStream, environment: dict) -> None:
    """Runs the command in a pseudo-terminal and feeds what it prints to the screen."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    child = subprocess.Popen(["bash", "-c", command], stdin=side, stdout=side, stderr=side, env=environment)
    os.close(side)
    while True:
        ready, _, _ = select.select([main], [], [], 0.2)
        if ready:
            try:
                data = os.read(main, 1 << 16)
            except OSError:  # the last program has closed its end
                break
            if not data:
                break
            stream.feed(data)
            screen.dirty.clear()
        elif child.poll() is not None:
            break
    os.close(main)
    if child.wait() != 0:
        sys.exit(f"exit code {child.returncode} from: {command}")


def spans(row: dict, width: int) -> list[tuple[str, str, bool]]:
    """Text, color and weight of each stretch of one line that looks alike."""
    found: list[tuple[str, str, bool]] = []
    for column in range(width):
        char = row[column]
        if found and found[-1][1:] == (char.fg, char.bold):
            found[-1] = (found[-1][0] + char.data, char.fg, char.bold)
        else:
            found.append((char.data, char.fg, char.bold))
    return found


def styled(text: str, color: str, bold: bool) -> str:
    fill = f' fill="{COLORS[color]}"' if color in COLORS else ""
    weight = ' class="b"' if bold else ""
    return f"<tspan{fill}{weight}>{escape(text)}</tspan>" if fill or weight else escape(text)


def picture(screen: pyte.Screen) -> str:
    rows = [screen.buffer[y] for y in range(LINES)]
    widths = [len(line.rstrip()) for line in screen.display]
    count = max(y for y, width in enumerate(widths) if width) + 1
    wide, high = COLUMNS * WIDTH + 2 * MARGIN, BAR + count * HEIGHT + MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high}" role="img" '
        'aria-label="A terminal in which qzo measures, fine-tunes and measures a 4-bit model">',
        "<style>text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
        "fill:#c9d1d9;white-space:pre}.p{fill:#7ee787}.c{fill:#f0f6fc;font-weight:600}.b{font-weight:600}</style>",
        f'<rect width="{wide:.0f}" height="{high}" rx="9" fill="#0d1117"/>',
    ]
    out += [f'<circle cx="{20 + 18 * i}" cy="17" r="5.5" fill="{c}"/>' for i, c in enumerate(("#ff5f57", "#febc2e", "#28c840"))]
    command = False
    for y, (row, width) in enumerate(zip(rows[:count], widths)):
        if not width:
            command = False
            continue
        line = screen.display[y].rstrip()
        prompt = line.startswith("$ ")
        if prompt or command:
            body = '<tspan class="p">$ </tspan>' if prompt else ""
            body += f'<tspan class="c">{escape(line[2:] if prompt else line)}</tspan>'
        else:
            body = "".join(styled(*span) for span in spans(row, width))
        # A shell's continued command goes on after a backslash.
        command = (prompt or command) and line.endswith("\\")
        out.append(f'<text x="{MARGIN}" y="{BAR + (y + 1) * HEIGHT - 5}" xml:space="preserve">{body}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qzo", type=Path)
    parser.add_argument("svg", type=Path)
    args = parser.parse_args()
    screen = pyte.Screen(COLUMNS, LINES)
    screen.set_mode(pyte.modes.LNM)
    stream = pyte.ByteStream(screen)
    shutil.rmtree("runs/smollm2-sentiment", ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "qzo").symlink_to(args.qzo.resolve())
        environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "TERM": "xterm-256color"}
        for number, command in enumerate(COMMANDS):
            stream.feed(("\n" * (number > 0) + f"$ {command}\n").encode())
            run(command, screen, stream, environment)
    args.svg.write_text(picture(screen), encoding="utf-8")


if __name__ == "__main__":
    main()
