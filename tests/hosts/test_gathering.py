"""A leader and its followers over real sockets: how they come together, and how a group ends."""

from __future__ import annotations

import queue
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from server.config.engine_config import EngineConfig
from server.hosts import caller_listener
from server.hosts.gathering import gather
from server.hosts.handshake import HandshakeError, admit, enter
from server.hosts.joining import join
from server.hosts.messages import (
    Agreed,
    Chips,
    Chosen,
    Done,
    Facts,
    Failed,
    Leaving,
    Stop,
    Welcome,
    follower_codec,
)
from server.hosts.watched_connection import Connection
from server.slice.chips import ChipUse
from server.slice.host_group import Group, GroupError, HostLink
from server.slice.interfaces import Interface
from tests.e2e.servers import first_free_port

SOFTWARE = "antipode 1 with jax 2"
SECRET = b"the secret of this group"
SETTINGS = EngineConfig(model="/models/toy/7", group_start_timeout_seconds=60.0)
ETH1 = Interface(name="eth1", address="127.0.0.3", mtu=8896)


@pytest.fixture
def group():
    """Three hosts of one machine."""
    return Group(hostnames=("127.0.0.1",) * 3, source="hosts", port=first_free_port())


def knock(group):
    """A connection to the leader, as soon as it listens."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", group.port))
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


class Pool(ThreadPoolExecutor):
    """Hosts at work; what they came to have is closed at the end of the test."""

    def __init__(self):
        super().__init__(8)
        self.running = []

    def submit(self, *call):
        self.running.append(super().submit(*call))
        return self.running[-1]

    def close(self):
        for future in self.running:
            if future.exception(10) is None:
                future.result().close()


@pytest.fixture
def pool():
    with Pool() as pool:
        yield pool
        pool.close()


class Lost(queue.SimpleQueue):
    """Takes the reason for which a group ended."""

    def reason(self):
        return self.get(timeout=60)


class FakeListener:
    """Keeps what a leader is told of its group."""

    def __init__(self):
        self.lost, self.told = Lost(), queue.SimpleQueue()

    def on_lost(self, reason):
        self.lost.put(reason)

    def on_leaving(self, index):
        self.told.put(("leaving", index))

    def on_chips(self, index, use):
        self.told.put(("chips", index, use))


def gathering(
    pool, group, *, listener=None, software=SOFTWARE, settings=SETTINGS, addresses=(), secret=SECRET
):
    """The leader, about to have its followers."""
    welcome = Welcome(config=settings, version="7", addresses=addresses)
    return pool.submit(
        gather, group, secret, welcome, software, lambda num_here: None, listener or FakeListener()
    )


def joining(
    pool, group, index, *, software=SOFTWARE, settings=SETTINGS, interfaces=(), secret=SECRET
):
    return pool.submit(join, replace(group, index=index), secret, settings, software, interfaces)


def proved(peer, index):
    """The connection of a host that has proved itself."""
    return Connection(peer, follower_codec(), enter(peer, SECRET, index, SOFTWARE))


@pytest.fixture
def together(pool, group):
    """A started group: the followers and what the leader was told, and for each follower the leader
    and what it lost.
    """
    told = FakeListener()
    leading = gathering(pool, group, listener=told)
    leaders = [joining(pool, group, index) for index in (1, 2)]
    followers = leading.result()
    followers.start(2.0)
    ends = []
    for leader in leaders:
        ends.append((leader.result(), Lost()))
        leader.result().start(2.0, ends[-1][1].put)
    return followers, told, ends


class TestComingTogether:
    def test_followers_take_the_leaders_settings_and_version(self, together):
        _, _, [(first, _), (second, _)] = together
        assert (first.config.model, first.version) == ("/models/toy/7", "7")
        assert (first.config.host_index, second.config.host_index) == (1, 2)

    def test_a_follower_may_be_there_before_the_leader(self, pool, group):
        leaders = [joining(pool, group, index) for index in (1, 2)]
        time.sleep(0.3)
        followers = gathering(pool, group).result()
        assert [link.index for link in followers.links] == [1, 2]
        assert all(leader.result() for leader in leaders)

    def test_progress_says_how_many_are_here(self, pool, group):
        seen = []
        welcome = Welcome(config=SETTINGS, version="7", addresses=())
        leading = pool.submit(gather, group, SECRET, welcome, SOFTWARE, seen.append, FakeListener())
        for index in (1, 2):
            joining(pool, group, index)
        leading.result()
        assert seen == [1, 2]

    def test_a_stranger_is_turned_away(self, pool, group, caplog):
        leading = gathering(pool, group)
        with knock(group) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            for index in (1, 2):
                joining(pool, group, index)
            leading.result()
        assert "not from a host of this slice" in caplog.text

    def test_a_host_that_was_started_again_replaces_itself(self, pool, group):
        leading = gathering(pool, group)
        before = knock(group)
        proved(before, 1)
        time.sleep(0.1)
        again = joining(pool, group, 1)
        time.sleep(0.1)
        joining(pool, group, 2)
        assert len(leading.result().links) == 2
        assert again.result().version == "7"
        before.close()

    def test_other_software_is_refused_on_both_sides(self, pool, group):
        leading = gathering(pool, group)
        other = joining(pool, group, 1, software="antipode 3 with jax 2")
        for side in (leading, other):
            with pytest.raises(GroupError, match=r"host 1 runs antipode 3 .* use one image"):
                side.result()

    def test_the_leader_does_not_wait_forever(self, pool, group):
        brief = replace(SETTINGS, group_start_timeout_seconds=0.5)
        leading = gathering(pool, group, settings=brief)
        waiting = joining(pool, group, 1)
        with pytest.raises(GroupError, match="only 2 of 3 hosts came in time"):
            leading.result()
        with pytest.raises(GroupError, match="host 0 is gone"):
            waiting.result()

    def test_a_follower_does_not_wait_forever(self, pool, group):
        brief = replace(SETTINGS, group_start_timeout_seconds=0.5)
        with pytest.raises(GroupError, match="host 0 does not answer at 127"):
            joining(pool, group, 1, settings=brief).result()

    def test_a_port_that_is_taken_is_told(self, pool, group):
        with (
            socket.create_server(("127.0.0.1", group.port)),
            pytest.raises(GroupError, match="choose another group_port"),
        ):
            gathering(pool, group).result()


def stalled(group, count):
    """Callers that say nothing, one that drips, and one that asks for a page."""
    callers = [knock(group) for _ in range(count)]
    callers[0].sendall(b"\0")
    callers[-1].sendall(b"GET / HTTP/1.1\r\n\r\n")
    return callers


class TestStrangers:
    """Whoever reaches the port without the secret neither ends a start nor delays it."""

    def test_fifty_silent_callers_delay_nothing_before_and_during_a_start(
        self, monkeypatch, pool, group
    ):
        # For so long that one who waits for a silent caller shows on any machine.
        monkeypatch.setattr(caller_listener, "admit", partial(admit, timeout=120))
        leading = gathering(pool, group)
        callers = stalled(group, 50)
        since = time.monotonic()
        joining(pool, group, 1)
        callers += stalled(group, 50)
        joining(pool, group, 2)
        assert [link.index for link in leading.result().links] == [1, 2]
        assert time.monotonic() - since < 60
        for caller in callers:
            caller.close()

    @pytest.mark.parametrize("secret", [b"the secret of another group", b""], ids=["false", "none"])
    def test_a_host_with_another_secret_or_none_stays_outside(self, pool, group, caplog, secret):
        leading = gathering(pool, group)
        brief = replace(SETTINGS, group_start_timeout_seconds=1.0)
        false = joining(pool, group, 1, secret=secret, settings=brief)
        with pytest.raises(GroupError, match=r"has not proved to be host 0: .* same group_secret"):
            false.result()
        assert "it says that it is host 1 but has another secret" in caplog.text
        for index in (1, 2):
            joining(pool, group, index)
        assert len(leading.result().links) == 2

    def test_a_leader_without_the_secret_has_no_followers(self, pool, group):
        brief = replace(SETTINGS, group_start_timeout_seconds=1.0)
        leading = gathering(pool, group, secret=b"", settings=brief)
        joining(pool, group, 1, settings=brief)
        with pytest.raises(GroupError, match="only 1 of 3 hosts came in time"):
            leading.result()

    def test_a_follower_waits_for_the_true_leader_past_an_impostor(self, pool, group, caplog):
        with socket.create_server(("127.0.0.1", group.port)) as impostor:
            waiting = joining(pool, group, 1)
            peer, _ = impostor.accept()
            with peer:
                admitting = pool.submit(admit, peer, b"a guess")
                with pytest.raises(HandshakeError):
                    admitting.result()
        pool.running.remove(admitting)
        joining(pool, group, 2)
        gathering(pool, group).result()
        assert waiting.result().version == "7"
        assert "has not proved to be host 0" in caplog.text

    @pytest.mark.parametrize("index", [0, 3])
    def test_an_index_outside_of_the_group_is_turned_away(self, pool, group, caplog, index):
        leading = gathering(pool, group)
        with knock(group) as peer:
            proved(peer, index)
            for host in (1, 2):
                joining(pool, group, host)
            leading.result()
        assert f"it is host {index} of a group of 3" in caplog.text

    def test_nobody_comes_in_once_the_group_is_complete(self, together, group):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", group.port))


class TestClaimedInterfaces:
    """Linux answers on every address of 127.0.0.0/8, so these play the networks of a claim."""

    def links(self, pool, group, addresses, interfaces):
        # A leader whose name is not loopback listens on every interface.
        leading = gathering(
            pool, replace(group, hostnames=("leader", "b", "c")), addresses=addresses
        )
        for index in (1, 2):
            joining(pool, group, index, interfaces=interfaces)
        return leading.result().links

    def test_claimed_interfaces_are_used_where_they_lead_to_the_leader(self, pool, group):
        links = self.links(pool, group, ("127.0.0.2",), (ETH1,))
        assert links == tuple(
            HostLink(index=index, interface="eth1", address="127.0.0.3") for index in (1, 2)
        )

    def test_the_leader_knows_the_one_address_that_all_followers_use(self, pool, group):
        apart = replace(group, hostnames=("leader", "b", "c"))
        for interfaces, address in [((ETH1,), "127.0.0.2"), ((), "127.0.0.1")]:
            leading = gathering(pool, apart, addresses=("127.0.0.2",))
            for index in (1, 2):
                joining(pool, group, index, interfaces=interfaces)
            assert leading.result().meeting_address == address

    def test_followers_that_use_several_addresses_of_the_leader_meet_on_all(self, pool, group):
        apart = replace(group, hostnames=("leader", "b", "c"))
        leading = gathering(pool, apart, addresses=("127.0.0.2",))
        joining(pool, group, 1, interfaces=(ETH1,))
        joining(pool, group, 2)
        assert leading.result().meeting_address == ""

    def test_the_pods_network_is_used_where_they_do_not(self, pool, group):
        elsewhere = replace(ETH1, address="192.0.2.1")
        links = self.links(pool, group, ("127.0.0.2",), (elsewhere,))
        assert {(link.interface, link.address) for link in links} == {("", "127.0.0.1")}

    def test_a_leader_without_any_is_reached_by_the_pods_network(self, pool, group):
        links = self.links(pool, group, (), (ETH1,))
        assert {link.interface for link in links} == {""}


class TestTogether:
    def test_everyone_hears_the_leader_and_is_heard(self, together):
        followers, _, leaders = together
        for number, (leader, _) in enumerate(leaders):
            leader.send(Facts(chip_bytes=number))
        assert {i: facts.chip_bytes for i, facts in followers.hear(Facts).items()} == {1: 0, 2: 1}
        followers.send(Agreed(chip_bytes=0))
        assert [leader.hear_one(Agreed).chip_bytes for leader, _ in leaders] == [0, 0]

    def test_what_comes_out_of_turn_is_no_answer(self, together):
        followers, _, [(leader, _), _] = together
        leader.send(Done(error=""))
        with pytest.raises(GroupError, match=r"host 1 sent Done.* instead of Facts"):
            followers.hear(Facts)

    def test_silence_that_is_filled_with_beats_is_none(self, together):
        _, told, _ = together
        time.sleep(2.5)
        assert told.lost.empty()

    def test_the_leader_is_told_of_each_ones_chips_and_of_who_was_told_to_end(self, together):
        followers, told, [(first, _), (second, _)] = together
        use = ChipUse(hbm_used={0: 8}, hbm_limit={0: 32}, duty_cycle={0: 0.5})
        first.send(Chips(use=use))
        assert told.told.get(timeout=60) == ("chips", 1, use)
        second.send(Leaving())
        assert told.told.get(timeout=60) == ("leaving", 2)
        assert told.lost.empty()
        first.send(Facts(chip_bytes=1))
        second.send(Facts(chip_bytes=2))
        assert len(followers.hear(Facts)) == 2

    def test_all_hosts_stop_together(self, together):
        followers, told, leaders = together
        stopping = threading.Thread(target=followers.stop)
        stopping.start()
        for leader, _ in leaders:
            assert isinstance(leader.hear(), Stop)
            leader.close()
        stopping.join(60)
        assert not stopping.is_alive()
        assert told.lost.empty()


class TestLoss:
    def test_the_loss_of_a_follower_is_reported_to_the_leader_and_the_others(self, together):
        _, told, [(first, _), (_, lost_by_second)] = together
        first.close()
        assert told.lost.reason() == "host 1 is gone: it closed the connection"
        assert lost_by_second.reason() == "host 1 is gone: it closed the connection"

    def test_the_loss_of_the_leader_is_reported_to_every_follower(self, together):
        followers, _, leaders = together
        followers.end("host 0 failed: no weights")
        for _, lost in leaders:
            assert lost.reason() == "host 0 failed: no weights"

    def test_a_follower_that_fails_says_why(self, together):
        _, told, [_, (second, _)] = together
        second.send(Failed(message="the mount is gone"))
        assert told.lost.reason() == "host 2 failed: the mount is gone"

    def test_a_follower_that_is_silent_is_gone(self, pool, group):
        told = FakeListener()
        leading = gathering(pool, group, listener=told)
        leaders = [joining(pool, group, index) for index in (1, 2)]
        leading.result().start(1.5)
        leaders[0].result().start(1.5, Lost().put)
        assert told.lost.reason() == "host 2 is gone: it has been silent for 1.5 s"

    def test_a_follower_that_sends_what_is_no_frame_is_gone(self, pool, group):
        told = FakeListener()
        leading = gathering(pool, group, listener=told)
        joining(pool, group, 1)
        with knock(group) as peer:
            line = proved(peer, 2)
            line.receive(5)
            line.send(Chosen())
            leading.result().start(5.0)
            peer.sendall((3).to_bytes(4, "big") + b"???" * 8)
            assert told.lost.reason().startswith("host 2 is gone: bytes arrived that it did not")
