"""The conformance kit against a server of ours: every rule holds, and the drain too."""

from tests.conformance.kit import find, report, rules, run


async def test_every_rule_of_the_kit_holds(start_ready):
    server = start_ready("--load-report-min-interval-seconds=0.2", "--drain-timeout-seconds=30")
    target = await find(server.http, server.grpc, server.pid)
    checked = [one for one in rules() if not one.is_timed]
    results = await run(target, checked)
    assert [result.outcome for result in results] == ["pass"] * len(checked), report(results)
