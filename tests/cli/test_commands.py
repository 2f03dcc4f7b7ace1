"""What every command has in common: help, completion, errors, exit codes, settings."""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main
from openinference_engine.__main__ import build_parser
from openinferencev2.cli import app
from openinferencev2.kubectl import Kubectl, explain

PROJECT = Path(__file__).resolve().parents[2]
ROOT = typer.main.get_command(app)


def commands(group, path=()):
    """Every command below a group, by what is typed for it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands(ROOT))


def test_the_commands_are_those_that_the_documentation_promises():
    assert {" ".join(path) for path in ALL} >= {
        *("serve", "chat", "run", "bench", "deploy", "status", "logs", "scale", "rollback"),
        *("doctor", "dashboard", "completion", "config show", "model prepare", "quantize"),
    }


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_says_what_a_command_and_each_option_does(path):
    assert ALL[path].help.strip().endswith(".")
    if path != ("serve",):  # its flags are the engine's
        assert [each.name for each in ALL[path].params if not each.help] == []


def test_help_of_serve_says_what_each_flag_of_the_engine_does():
    [commands] = [each for each in build_parser()._actions if each.dest == "command"]
    flags = commands.choices["serve"]._actions
    assert [flag.dest for flag in flags if not flag.help] == []


@pytest.mark.parametrize("words", [(), ("config",), ("chat",)])
def test_help_is_instant_because_nothing_heavy_is_imported(home, words):
    heavy = "('aiohttp', 'torch', 'pydantic_settings', 'kubernetes', 'transformers')"
    program = (
        "import sys; from openinferencev2.cli import main; sys.argv = "
        f"['openinference', *{words!r}, '--help']\n"
        "try: main()\n"
        f"finally: print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert done.stderr.strip().endswith("[]")


def test_every_command_that_tells_something_tells_it_to_scripts_too():
    speaks = {
        " ".join(path) for path in ALL if "output" in {each.name for each in ALL[path].params}
    }
    # These serve, open a page, print a script, or print JSON anyway.
    assert {" ".join(path) for path in ALL} - speaks == {
        *("serve", "dashboard", "completion", "model prepare"),
    }


ERRORS = {
    "nobody answers": (("chat", "--url", "http://127.0.0.1:9", "x", "hi"), 1, "check --url"),
    "no scheme": (("chat", "--url", "localhost", "x", "hi"), 2, "http://localhost"),
    "nothing to deploy": (("deploy",), 2, "--model"),
    "no input": (("run", "--url", "http://127.0.0.1:9", "absent", "out"), 2, "No such file"),
    "not a number": (("scale", "demo", "many"), 2, "integer"),
    "no such command": (("depoly",), 2, "deploy"),
}


@pytest.mark.parametrize(("words", "code", "remedy"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_is_a_sentence_with_the_remedy(openinference, words, code, remedy):
    done = openinference(*words)
    assert done.returncode == code, done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on PATH")
@pytest.mark.parametrize(
    ("words", "remedy"),
    [(("status",), "no kubeconfig"), (("status", "--context", "absent"), "get-contexts")],
    ids=["no cluster", "no context"],
)
def test_kubectl_without_a_cluster_is_an_error_with_the_remedy(openinference, words, remedy):
    done = openinference(*words)
    assert done.returncode == 3, done.stderr
    assert remedy in done.stderr


def test_the_version_is_that_of_the_installed_package(openinference):
    assert openinference("--version").stdout == f"openinference {version('openinferencev2')}\n"


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m openinferencev2 plan -f docs/examples/smollm2.yaml | true"
    done = subprocess.run(["bash", "-c", command], cwd=PROJECT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_debug_shows_where_an_error_came_from(openinference):
    done = openinference("--debug", "chat", "--url", "http://127.0.0.1:9", "x", "hi")
    assert "Traceback" in done.stderr


def test_a_machine_without_kubectl_is_told_to_get_it(openinference, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    done = openinference("status")
    assert done.returncode == 3
    assert "kubectl is not on PATH; install it" in done.stderr


def test_a_command_whose_extra_is_not_installed_says_which(home):
    program = (
        "import sys; sys.modules['zmq'] = None\n"
        "from openinferencev2.cli import main; sys.argv = ['openinference', 'serve', 'file:///x']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "zmq is not installed; pip install 'openinferencev2[engine" in done.stderr
    assert "Traceback" not in done.stderr


COMPLAINTS = {
    "refused": (
        "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host?",
        "does not answer",
    ),
    "forbidden": (
        'Error from server (Forbidden): inferenceservices is forbidden: User "eve" cannot list',
        "role 'edit'",
    ),
    "no CRD": ('error: the server doesn\'t have a resource type "infsvc"', "install the chart"),
    "no CRD any more": (
        'Error from server (NotFound): Unable to list "openinference.dev/v1alpha1, Resource='
        'inferenceservices": the server could not find the requested resource',
        "install the chart",
    ),
    "wrong name": (
        'Error from server (NotFound): inferenceservices.openinference.dev "x" not found',
        "openinference status",
    ),
    "refused by CEL": (
        "The InferenceService is invalid: spec.replicas: Invalid value: 3: use autoscaling",
        "use autoscaling",
    ),
}


@pytest.mark.parametrize(("complaint", "words"), COMPLAINTS.values(), ids=COMPLAINTS.keys())
def test_what_kubectl_complains_of_gets_a_remedy(complaint, words):
    assert words in str(explain(complaint))


# Far more than the 64 KiB that a pipe holds, and a last word when all of it was taken.
TALKATIVE = """#!/bin/sh
echo "Forwarding from 127.0.0.1:43210 -> 8080"
yes "Handling connection for 43210" | head -n 20000
echo said > "$0.said"
exec sleep 60
"""


def test_a_port_forward_that_talks_a_lot_does_not_hang(tmp_path, monkeypatch):
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(TALKATIVE)
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with Kubectl().forwarded("router") as url:
        assert url == "http://127.0.0.1:43210"
        deadline = time.monotonic() + 60
        while not (tmp_path / "kubectl.said").exists():
            assert time.monotonic() < deadline, "kubectl waits for somebody to listen"
            time.sleep(0.01)


# Settings.


def test_flags_win_over_environment_over_file_and_each_source_is_named(
    openinference, home, monkeypatch
):
    path = home / "config/openinference/config.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("namespace: from-file\nurl: http://file\napi_key: hidden\n")
    monkeypatch.setenv("OPENINFERENCE_NAMESPACE", "from-environment")
    shown = openinference("config", "show")
    lines = {line.split()[0]: line for line in shown.stdout.splitlines()}
    assert "from-environment" in lines["namespace"]
    assert "environment OPENINFERENCE_NAMESPACE" in lines["namespace"]
    assert str(path) in lines["url"]
    assert "default" in lines["context"]
    assert "hidden" not in shown.stdout
    shown = openinference("config", "show", "--namespace", "from-flag", "-o", "json")
    assert json.loads(shown.stdout)["namespace"] == {
        "value": "from-flag",
        "source": "flag --namespace",
    }


def test_a_file_that_was_asked_for_must_exist(openinference, monkeypatch):
    monkeypatch.setenv("OPENINFERENCE_CONFIG", "/absent.yaml")
    done = openinference("status")
    assert done.returncode == 2
    assert "OPENINFERENCE_CONFIG names /absent.yaml, which is no file; write it" in done.stderr


def test_a_misspelt_variable_is_an_error_and_those_of_other_programs_are_not(
    openinference, monkeypatch
):
    monkeypatch.setenv("OPENINFERENCE_SERVICE", "an engine's")
    assert openinference("config", "show").returncode == 0
    monkeypatch.setenv("OPENINFERENCE_NAMESPCE", "x")
    done = openinference("config", "show")
    assert done.returncode == 2
    assert "did you mean OPENINFERENCE_NAMESPACE?" in done.stderr


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("namespce: x", "did you mean 'namespace'?"),
        ("- a list", "is not a YAML mapping"),
        ("namespace: [", "is not a YAML mapping"),
        ("namespace: [a]", "namespace: Input should be a valid string"),
    ],
)
def test_a_file_that_is_wrong_is_an_error_that_says_how(
    openinference, home, monkeypatch, text, complaint
):
    (home / "wrong.yaml").write_text(text)
    monkeypatch.setenv("OPENINFERENCE_CONFIG", str(home / "wrong.yaml"))
    done = openinference("config", "show")
    assert done.returncode == 2
    assert complaint in done.stderr
