"""What a test run tells while it goes on, so that one that is killed has told it, and what it had to repair."""

from __future__ import annotations

import pytest

_healed = pytest.StashKey[list[str]]()
HEALED = "healed"


def note_repairs(node: pytest.Item, reasons: list[str]) -> None:
    """Let the summary of the run tell why a queue system or server was started again for a test."""
    node.user_properties += [(HEALED, reason) for reason in reasons]


class Reports:
    """Writes each failure when it happens, if told to; in the end, what had to be started again."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        config.stash[_healed] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            reasons = [str(value) for name, value in report.user_properties if name == HEALED]
            self._config.stash[_healed] += [f"{report.nodeid}: {reason}" for reason in reasons]
        if report.failed and self._config.getoption("failures_at_once"):
            terminal = self._config.pluginmanager.get_plugin("terminalreporter")
            terminal.ensure_newline()
            terminal.write_line(f"{report.nodeid} failed ({report.when}, {report.duration:.0f} s):")
            terminal.write_line(report.longreprtext)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if healed := self._config.stash[_healed]:
            terminalreporter.section("started again because they were broken")
            for line in healed:
                terminalreporter.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--failures-at-once", action="store_true", help="write failures when they happen, too")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # in the process that has the terminal
        config.pluginmanager.register(Reports(config), "wfl-reports")
