"""Which pods Prometheus scrapes, and where."""

from e2e.cluster.scrape_targets import target_groups, write_if_changed


def pod(annotations, phase="Running", **status):
    metadata = {"name": "a-0", "namespace": "demo", "annotations": annotations}
    return {"metadata": metadata, "status": {"phase": phase, "podIP": "10.244.1.7", **status}}


ASKING = {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}


def test_a_pod_that_asks_is_scraped_with_its_name_and_namespace():
    (group,) = target_groups([pod(ASKING)])

    assert group["targets"] == ["10.244.1.7:8000"]
    assert group["labels"] == {"namespace": "demo", "pod": "a-0", "__metrics_path__": "/metrics"}


def test_the_path_can_be_chosen():
    (group,) = target_groups([pod({**ASKING, "prometheus.io/path": "/stats"})])

    assert group["labels"]["__metrics_path__"] == "/stats"


def test_pods_that_do_not_ask_are_left_alone():
    silent = {"metadata": {"name": "b-0", "namespace": "demo"}, "status": {"phase": "Running"}}

    assert target_groups([silent, pod({"prometheus.io/scrape": "false"})]) == []


def test_finished_and_waiting_pods_are_no_targets():
    assert target_groups([pod(ASKING, phase="Succeeded"), pod(ASKING, phase="Pending")]) == []


def test_an_unchanged_file_is_not_written_again(tmp_path):
    path = tmp_path / "pods.json"
    write_if_changed(path, "[]")
    first = path.stat().st_ino

    write_if_changed(path, "[]")
    assert path.stat().st_ino == first

    write_if_changed(path, "[1]")
    assert path.read_text() == "[1]"
