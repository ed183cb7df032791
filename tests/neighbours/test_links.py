"""Signs of life: who is listened to, who is believed, and what sleep does."""

import json
import socket
import time

import pytest

from chatlm.errors import NeighbourError
from chatlm.neighbours import links
from chatlm.neighbours.links import Client, Hub, Members, Offer
from chatlm.neighbours.processes import Process, this_process

LONG = 60.0
FAR = Process(1, "far", "another machine", "1")


@pytest.fixture
def pair(monkeypatch):
    """Returns a function that makes the ends of two ranks, both in this process."""
    open_links = []

    def make(hang_seconds=LONG, everywhere=False, address="127.0.0.1"):
        if everywhere:
            monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
            monkeypatch.setenv("MASTER_ADDR", address)
        else:
            monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        server = links.serve(2)
        processes = [this_process(), FAR]
        hub = Hub(Members(0, processes, hang_seconds), server)
        client = Client(Members(1, processes, hang_seconds), server.offer)
        open_links.extend([client, hub])
        return hub, client, server.offer

    yield make
    for link in open_links:
        link.close()


def turns(*ends, seconds=1.2):
    """Lets the ends take turns; returns the first verdict of any of them."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for end in ends:
            if verdict := end.turn().verdict:
                return str(verdict)
    return None


def stranger(offer, *messages):
    connection = socket.create_connection((offer.address, offer.port))
    for message in messages:
        connection.sendall(json.dumps(message).encode() + b"\n")
    return connection


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_ranks_of_several_machines_reach_rank_0_at_its_address(pair, address):
    hub, client, offer = pair(everywhere=True, address=address)
    assert offer.address == address
    assert turns(hub, client) is None
    client.leave(3)
    assert turns(hub) == "rank 1 (pid 1 on far) ended with exit code 3"


def test_rank_0_that_cannot_be_reached_is_named():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        offer = Offer("127.0.0.1", probe.getsockname()[1], "secret")
    with pytest.raises(NeighbourError, match=r"cannot reach rank 0 \(pid .* connections"):
        Client(Members(1, [this_process(), FAR], LONG), offer)


def test_who_does_not_know_the_secret_is_not_listened_to(pair):
    hub, client, offer = pair()
    assert turns(hub, client, seconds=0.6) is None
    greetings = (
        {"secret": "guessed", "rank": 1},
        {"rank": 1},
        {"secret": None, "rank": 1},
        {"secret": "密", "rank": 1},
        [],
        {"left": 2},
    )
    strangers = [stranger(offer, greeting, {"left": 2}) for greeting in greetings]
    assert turns(hub, seconds=1) is None
    assert all(_is_closed(one) for one in strangers)
    for one in strangers:
        one.close()
    assert turns(hub, client, seconds=1) is None


def test_who_knows_it_but_is_no_rank_is_not_listened_to(pair):
    hub, client, offer = pair()
    for rank in (0, 2, "1", None):
        stranger(offer, {"secret": offer.secret, "rank": rank}, {"left": 2}).close()
    assert turns(hub, client) is None


def test_noise_without_an_end_is_cut_off(pair):
    hub, client, offer = pair()
    connection = stranger(offer)
    connection.sendall(b"x" * 10_000)
    assert turns(hub, client, seconds=2) is None
    assert _is_closed(connection)
    connection.close()


def _is_closed(connection):
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_the_end_of_a_run_is_no_death(pair):
    hub, client, _ = pair()
    assert turns(hub, client) is None
    hub.leave(0)
    hub.close()
    assert turns(client) is None


def test_silence_is_a_verdict_and_sleep_of_ones_own_is_not(pair):
    hub, client, _ = pair(hang_seconds=5)
    assert turns(hub, client) is None
    time.sleep(6)  # both: the machine was suspended
    assert turns(hub, client, seconds=2) is None
    began = time.monotonic()
    assert turns(hub, seconds=8) == "rank 1 (pid 1 on far) hangs or its machine does"
    assert time.monotonic() - began < 5
