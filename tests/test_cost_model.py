"""The model of a step's time: its limits, and sums done by hand."""

from dataclasses import replace

import pytest

from fpgan.benchmarks import cost_model
from fpgan.benchmarks.cost_model import H100, SYSTEMS, V5E, V5P, System, Work, all_reduce_seconds, predict, ring_seconds

WORK = [Work("generator", 1, 4e12, 100e6), Work("r1", 16, 8e12, 48e6)]


def test_one_device_does_not_communicate():
    assert ring_seconds(1e9, 1, 1.0, 1.0) == 0
    alone = predict(System("one", V5E, 1), WORK, 8, 0.5)
    assert alone["all_reduce_seconds"] == alone["communication"] == 0
    assert alone["step_seconds"] == pytest.approx((4e12 + 8e12 / 16) / (197e12 * 0.5))
    assert alone["images_per_second"] == pytest.approx(8 / alone["step_seconds"])


def test_a_ring_by_hand():
    # 4 devices, 8 bytes: 6 messages of 2 bytes each at 2 bytes/s, and 6 latencies of 0.5 s
    assert ring_seconds(8, 4, 2.0, 0.5) == pytest.approx(6 * 1.0 + 6 * 0.5)


def test_many_devices_send_twice_the_bytes_whatever_their_number():
    assert ring_seconds(1e6, 10**6, 1e6) == pytest.approx(2, rel=1e-5)


def test_infinite_links_leave_the_compute():
    free = replace(V5E, bandwidth=float("inf"), latency=0.0)
    row = predict(System("free", free, 64, hosts=8), WORK, 8, 0.3)
    assert row["all_reduce_seconds"] == 0 and row["step_seconds"] == row["compute_seconds"]
    assert row["batch"] == 512 and row["images_per_second"] == pytest.approx(512 / row["compute_seconds"])


def test_hosts_exchange_their_share_over_the_network():
    inner = ring_seconds(80e6, 8, H100.bandwidth, H100.latency)
    two = System("two", H100, 8, 2, 2, network=50e9)
    assert all_reduce_seconds(two, 80e6) == pytest.approx(inner + 2 * 1 / 2 * 10e6 / 50e9)
    assert all_reduce_seconds(replace(two, rings=1, network=0.0), 80e6) == inner


def test_the_parts_of_a_step_count_by_their_interval():
    system = System("eight", V5P, 8)
    every, seldom = (predict(system, [Work("x", interval, 1e12, 1e6)], 8, 0.3) for interval in (1, 4))
    assert every["step_seconds"] == pytest.approx(4 * seldom["step_seconds"])


def test_the_systems_are_those_that_are_sold():
    counts = {system.name: (system.count, system.hosts) for system in SYSTEMS}
    assert counts["v5e-8"] == (8, 1) and counts["v5e-64"] == (64, 8) and counts["v5p-128"] == (64, 16)
    assert counts["8xH100, 1 host"] == (8, 1) and counts["8xH100, 16 hosts"] == (128, 16)
    assert all(system.network > 0 for system in SYSTEMS if system.rings > 1)
    assert all(system.device.source.startswith(("https://cloud.google.com/tpu/", "NVIDIA ")) for system in SYSTEMS)


def test_more_hosts_of_the_same_kind_take_longer_for_a_step_and_make_more_images():
    rows = [predict(system, WORK, 8, 0.3) for system in cost_model.SYSTEMS if "H100, " in system.name]
    assert [row["step_seconds"] for row in rows] == sorted(row["step_seconds"] for row in rows)
    assert [row["images_per_second"] for row in rows] == sorted(row["images_per_second"] for row in rows)
