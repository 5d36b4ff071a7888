#!/usr/bin/env python3
"""typed.py SHELL TEXT... - types each TEXT and a tab into a real, interactive shell that has ndctl's
completion, and prints the line as the shell has it then (without blanks at its end).

The line is made to print itself: a key is bound that hands the shell's own line buffer to a file, so
that nothing has to be read off the screen.
"""
import os
import pty
import select
import sys
import tempfile
import time

DEADLINE = 40  # s

shell, texts = sys.argv[1], sys.argv[2:]
answer = tempfile.mktemp(prefix="typed-")
ready = answer + ".ready"

SETUP = {
    "bash": (["bash", "--norc", "-i"], f"""
source <(ndctl completion bash)
told() {{ printf '%s\\n' "$READLINE_LINE" >{answer}; }}
bind -x '"\\C-xw": told'
touch {ready}
"""),
    "zsh": (["zsh", "-f", "-i"], f"""
autoload -Uz compinit && compinit -u -D
source <(ndctl completion zsh)
told() {{ print -r -- "$BUFFER" >{answer} }}
zle -N told; bindkey -e; bindkey '^Xw' told
touch {ready}
"""),
    "fish": (["fish", "--no-config", "-i"], f"""
ndctl completion fish | source
function told; commandline -b >{answer}; end
bind \\cxw told
touch {ready}
"""),
}
argv, setup = SETUP[shell]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(argv[0], argv)


def pump(condition):
    """Reads what the shell writes, so that it never waits for us, until the condition holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"{shell} did not get that far")
        if select.select([terminal], [], [], 0.02)[0]:
            data = os.read(terminal, 65536)
            if b"\x1b[c" in data or b"\x1b[0c" in data:  # fish asks what terminal this is
                os.write(terminal, b"\x1b[?62;c")


def line():
    try:
        with open(answer) as f:
            told = f.read()
            return told.rstrip() if told.endswith("\n") else None  # else it is still being written
    except FileNotFoundError:
        return None


def told():
    """The line, asked for now."""
    if os.path.exists(answer):
        os.remove(answer)
    os.write(terminal, b"\x18w")
    pump(lambda: line() is not None)
    return line()


try:
    with tempfile.NamedTemporaryFile("w", prefix="typed-") as script:
        script.write(setup)
        script.flush()
        os.write(terminal, f"source {script.name}\n".encode())
        pump(lambda: os.path.exists(ready))
    for text in texts:
        os.write(terminal, text.encode() + b"\t")
        print(told(), flush=True)
        os.write(terminal, b"\x15")  # kills the line
finally:
    for path in (answer, ready):
        if os.path.exists(path):
            os.remove(path)
    os.close(terminal)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
