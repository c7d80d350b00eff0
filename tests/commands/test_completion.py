"""What a shell offers at the TAB key: asked as the user would have it, in each shell that is here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from realservers.processes import unavailable

SCRIPTS = Path(sys.executable).parent
NAME = "legacy-email-proxy"

_BASH = """
eval "$(register-python-argcomplete legacy-email-proxy)"
COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9
COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_python_argcomplete legacy-email-proxy "${{COMP_WORDS[COMP_CWORD]}}" ""
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
_FISH = """
register-python-argcomplete --shell fish legacy-email-proxy | source
complete --do-complete '{line}'
"""
_ZSH = """
autoload -Uz compinit && compinit -D
eval "$(register-python-argcomplete legacy-email-proxy)"
print -r -- $_comps[legacy-email-proxy]
"""


def offered(shell: str, script: str, home: Path) -> list[str]:
    if not shutil.which(shell):
        unavailable(f"no {shell} here")
    environment = {**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}", "HOME": str(home)}
    command = [shell, *(["-f"] if shell == "zsh" else []), "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    return [line.split("\t")[0].strip() for line in done.stdout.splitlines() if line.strip()]


@pytest.mark.parametrize(("shell", "script"), [("bash", _BASH), ("fish", _FISH)])
@pytest.mark.parametrize(
    ("line", "expected"), [(f"{NAME} ch", ["check"]), (f"{NAME} sp", ["spool"]), (f"{NAME} spool li", ["list"])]
)
def test_tab(tmp_path: Path, shell: str, script: str, line: str, expected: list[str]) -> None:
    assert offered(shell, script.format(line=line), tmp_path) == expected


def test_zsh_knows_whom_to_ask(tmp_path: Path) -> None:
    assert "_python_argcomplete" in " ".join(offered("zsh", _ZSH, tmp_path))


def test_nothing_is_loaded_for_it_at_a_start() -> None:
    code = (
        "import sys\nfrom legacy_email_proxy import cli\ncli.main(['plugins'])\nsys.exit('argcomplete' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
