"""What the controller tells Prometheus' operator, where it is installed."""

from tests.operator.running import until


async def test_without_prometheus_operator_nothing_is_told_to_it(running, server, raw_service):
    running.submit(raw_service())
    await until(lambda: "Deployment" in running.kinds())
    await until(lambda: any("servicemonitors" in path for _, path in server.calls))
    assert not {"ServiceMonitor", "PrometheusRule"} & set(running.kinds())
    assert all(method == "GET" for method, path in server.calls if "monitoring" in path)


async def test_prometheus_operator_is_told_where_it_is_installed(running, server, raw_service):
    """A kind that is new answers 429 for a moment; that must not cost a minute."""
    server.knows_monitoring = True
    server.initializing = 2
    running.submit(raw_service())
    await until(lambda: {"ServiceMonitor", "PrometheusRule"} <= set(running.kinds()))


async def test_a_monitor_that_could_not_be_written_is_written_soon(running, server, raw_service):
    server.knows_monitoring = True
    server.forbidden = "/servicemonitors/openinference-router"
    running.submit(raw_service())
    await until(lambda: any(path.endswith(server.forbidden) for _, path in server.calls))
    server.forbidden = ""
    await until(lambda: {"ServiceMonitor", "PrometheusRule"} <= set(running.kinds()))


async def test_a_kind_that_may_not_be_listed_is_left_alone(running, server, raw_service, caplog):
    server.knows_monitoring = True
    server.forbidden = "/servicemonitors"
    running.submit(raw_service())
    await until(lambda: "PrometheusRule" in running.kinds())
    running.submit(raw_service(name="other"))
    await until(lambda: running.status("other").get("replicas") == 1)
    await running.at_rest()
    assert "ServiceMonitor" not in running.kinds()
    assert caplog.text.count("kind=ServiceMonitor") == 1
    assert "will retry: key=team-a/router" not in caplog.text
