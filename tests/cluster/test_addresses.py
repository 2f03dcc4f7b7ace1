"""The cluster takes addresses that nobody on this machine uses."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from e2e.cluster.addresses import (
    CANDIDATES,
    AddressPlan,
    choose_plan,
    networks_of_links,
    networks_of_routes,
)
from e2e.cluster.errors import UnsupportedMachine


def test_an_unused_machine_gets_the_first_block():
    assert choose_plan([]).block == CANDIDATES[0]


@pytest.mark.parametrize(
    ("occupied", "chosen"),
    [
        (["192.168.0.0/16"], "10.244.0.0/16"),
        (["10.244.7.0/24"], "10.245.0.0/16"),
        (["10.244.0.0/16", "10.245.0.1/32"], "10.246.0.0/16"),
        (["10.0.0.0/8"], "172.31.0.0/16"),
        (["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "198.18.0.0/16"),
    ],
    ids=["a home network", "another cluster", "two clusters", "a VPN", "all private ranges"],
)
def test_a_block_that_overlaps_a_route_is_passed_over(occupied, chosen):
    plan = choose_plan(map(IPv4Network, occupied))

    assert plan.block == IPv4Network(chosen)


def test_when_every_block_is_taken_the_message_names_them_and_the_remedy():
    with pytest.raises(UnsupportedMachine, match=r"10\.244\.0\.0/16.*free one of them"):
        choose_plan(CANDIDATES)


def test_pods_services_and_nodes_do_not_overlap():
    plan = AddressPlan(IPv4Network("10.244.0.0/16"))

    assert not plan.pods.overlaps(plan.services)
    assert not plan.pods.overlaps(plan.nodes)
    assert not plan.services.overlaps(plan.nodes)


def test_every_node_has_its_own_part_of_the_pod_addresses():
    plan = AddressPlan(IPv4Network("10.244.0.0/16"))

    assert plan.pods_of(1) == IPv4Network("10.244.1.0/24")
    assert plan.pods_of(100).subnet_of(plan.pods)
    assert plan.node(2) == IPv4Address("10.244.255.2")


def test_the_name_server_is_inside_the_service_range():
    plan = AddressPlan(IPv4Network("10.244.0.0/16"))

    assert plan.dns_service in plan.services
    assert plan.api_service == plan.services[1]


def test_a_default_route_occupies_nothing():
    routes = [{"dst": "default"}, {"dst": "10.8.0.0/24"}, {"dst": "192.0.2.2"}]

    assert list(networks_of_routes(routes)) == [
        IPv4Network("10.8.0.0/24"),
        IPv4Network("192.0.2.2/32"),
    ]


def test_an_interface_occupies_its_whole_network():
    links = [
        {"addr_info": [{"local": "172.17.0.1", "prefixlen": 16}]},
        {"addr_info": []},
    ]

    assert list(networks_of_links(links)) == [IPv4Network("172.17.0.0/16")]
