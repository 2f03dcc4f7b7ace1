"""Exit codes and streams of `python -m e2e.cluster`."""

import pytest

from e2e.cluster import cli, preflight
from e2e.cluster.preflight import Machine

POOR = Machine(
    is_linux=True,
    is_root=False,
    docker_answers=False,
    can_make_namespaces=False,
    can_make_control_groups=False,
    has_bridge_filter=False,
    has_apt=True,
    missing_packages=(),
    free_bytes=100 * 2**30,
    free_state_bytes=100 * 2**30,
    is_built=False,
)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def call(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["e2e.cluster", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_a_machine_that_cannot_do_it_exits_with_2_and_a_remedy(monkeypatch, capsys):
    monkeypatch.setattr(preflight, "observe", lambda: POOR)

    assert call(monkeypatch, "up") == 2
    assert "start Docker" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["env", "kubeconfig", "status", "load", "add-node"])
def test_commands_without_a_cluster_fail_on_stderr_only(command, monkeypatch, capsys):
    assert call(monkeypatch, command) == 1

    captured = capsys.readouterr()
    assert "No cluster is up" in captured.err
    assert captured.out == ""


def test_down_without_a_cluster_is_content(monkeypatch, capsys):
    assert call(monkeypatch, "down") == 0
    assert "No cluster is up" in capsys.readouterr().err


def test_env_prints_what_a_shell_can_evaluate(empty_cache, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "intranet")
    record = empty_cache / "openinference" / "cluster" / "provider"
    record.parent.mkdir(parents=True)
    record.write_text("embedded")

    assert call(monkeypatch, "env") == 0
    kubeconfig, path, no_proxy = capsys.readouterr().out.splitlines()
    assert kubeconfig == f"export KUBECONFIG={record.parent}/kubeconfig"
    assert path == f'export PATH={record.parent}/bin:"$PATH"'
    assert no_proxy.startswith("export NO_PROXY=intranet,10.244.0.0/16,")


def test_another_provider_than_the_running_one_is_refused(empty_cache, monkeypatch, capsys):
    record = empty_cache / "openinference" / "cluster" / "provider"
    record.parent.mkdir(parents=True)
    record.write_text("embedded")
    monkeypatch.setattr(preflight, "observe", lambda: POOR)

    assert call(monkeypatch, "up", "--provider", "kind") == 1
    assert "run `down`" in capsys.readouterr().err
