"""Submission in bulk through a shell, and finding again what was submitted."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import TYPE_CHECKING

from expyre.errors import ExPyReError, QueueFull, RequestError, SchedulerError, SubmitFailed
from expyre.schedulers import protocol
from expyre.schedulers.base import Submission
from expyre.schedulers.protocol import Outcome
from expyre.schedulers.text import pre_submit_script
from expyre.schedulers.units import Batch, Unit, place_of, token_word

if TYPE_CHECKING:
    from expyre.schedulers.batch import BatchScheduler

__all__ = ["Submitter"]

# Seconds after which a host is given up that does not say what became of a submission.
_PATIENCE = 1800.0
# How often a submission is tried again, in smaller units or without the jobs that were submitted before.
_ROUNDS = 5
# The highest exit status by which a shell says that a signal killed a command; 255 is how sbatch refuses options.
_LAST_SIGNAL = 128 + 64

Answers = dict[str, str | ExPyReError]


class Submitter:
    """Submits jobs to a queue.

    Parameters
    ----------
    queue
        The queue.
    """

    def __init__(self, queue: BatchScheduler) -> None:
        self.queue = queue
        self._settled: defaultdict[str, set[str]] = defaultdict(set)
        self._size: int | None = None
        self._tidied = False

    def submit(self, subs: Sequence[Submission], pre_submit_cmds: Sequence[str], *, scripts: bool = False) -> Answers:
        """Submit jobs and return the answers by id.

        Parameters
        ----------
        subs
            The jobs.
        pre_submit_cmds
            Commands to run in the submitting shell first.
        scripts
            Whether to write the job scripts into the jobs' directories.
        """
        answers: Answers = {}
        by_place: defaultdict[str, list[Submission]] = defaultdict(list)
        for sub in subs:
            try:
                by_place[place_of(sub.directory)].append(self._checked(sub))
            except RequestError as error:
                answers[sub.id] = error
        for place, there in by_place.items():
            self._submit_at(place, there, pre_submit_cmds, scripts, answers)
        return answers

    def _checked(self, sub: Submission) -> Submission:
        if not sub.id or "/" in sub.id or "\0" in sub.id:
            raise RequestError(f"the job id {sub.id!r} cannot be part of a file name")
        self.queue.header(sub)
        return sub if sub.token else replace(sub, token=token_hex(8))

    def _submit_at(
        self, place: str, subs: Sequence[Submission], pre_submit_cmds: Sequence[str], scripts: bool, answers: Answers
    ) -> None:
        todo = list(subs)
        for _ in range(_ROUNDS):
            if not todo:
                return
            batch = self._batch(place, todo, scripts)
            answers.update(self._round(batch, pre_submit_cmds))
            todo = self._again(batch, answers)
        for sub in todo:
            answers.setdefault(sub.id, SubmitFailed(f"job {sub.id} is being submitted by another process as well"))

    def _batch(self, place: str, subs: Sequence[Submission], scripts: bool) -> Batch:
        limit = self.queue.limits().unit_size if len(subs) > 1 else None
        sizes = [size for size in (limit, self._size) if size is not None]
        batch = self.queue.make_batch(place, subs, min(sizes) if sizes else None)
        settled = sorted(line for sub in subs for line in self._settled[token_word(sub.token)])
        texts = {sub.id: self.queue.script(sub) for sub in subs} if scripts else {}
        return replace(batch, settled=tuple(settled), job_scripts=texts)

    def _again(self, batch: Batch, answers: Answers) -> list[Submission]:
        """Return the jobs to submit again: those without an answer, and those whose unit can be made smaller."""
        full = [unit for unit in batch.units if isinstance(answers.get(unit.subs[0].id), QueueFull)]
        largest = max((len(unit.subs) for unit in full), default=0)
        if largest > 1:
            self._size = (largest + 1) // 2
        elif self._size and not full:
            self._size *= 2
        smaller = {sub.id for unit in full if largest > 1 for sub in unit.subs}
        return [sub for sub in batch.subs if sub.id not in answers or sub.id in smaller]

    def _round(self, batch: Batch, pre_submit_cmds: Sequence[str]) -> Answers:
        told = self._carry_out(batch, pre_submit_cmds)
        if told.contested:
            return self._answers_of_others(batch, told.contested)
        if told.unprepared is not None:
            error = SubmitFailed(f"pre_submit_cmds {list(pre_submit_cmds)} failed: {told.unprepared}")
            return {sub.id: error for sub in batch.subs}
        verdicts = {unit.token: self._verdict(told.outcomes[unit.token]) for unit in batch.units}
        full = [verdict for verdict in verdicts.values() if isinstance(verdict, QueueFull)]
        answers: Answers = {}
        doubtful: list[Submission] = []
        for unit in batch.units:
            verdict = verdicts[unit.token]
            if told.outcomes[unit.token].state == "void" and full:
                verdict = full[0]
            if verdict is None:
                doubtful += unit.subs
            else:
                answers.update(self._members(batch, unit, verdict))
        answers.update(self._undoubted(batch, doubtful, told.outcomes))
        return answers

    def _carry_out(self, batch: Batch, pre_submit_cmds: Sequence[str]) -> protocol.Submitted:
        mark = protocol.new_mark()
        script = protocol.submit_script(
            batch,
            [self.queue.submit_command(unit) for unit in batch.units],
            mark=mark,
            before=pre_submit_script(pre_submit_cmds),
            full=self.queue.full_pattern,
            script_name=self.queue.script_name,
            tidy=not self._tidied,
        )
        self._tidied = True
        done = self.queue.transport.run(self.queue.in_shell(script), stdin=batch.archive(), timeout=_PATIENCE)
        try:
            return protocol.read_submit(done.text, mark)
        except SchedulerError as error:
            raise SchedulerError(
                f"jobs could not be submitted below {self._where(batch.place)}: {error}: {done.error_text}"
            ) from None

    def _members(self, batch: Batch, unit: Unit, verdict: str | SubmitFailed) -> Answers:
        if isinstance(verdict, SubmitFailed):
            for sub in unit.subs:
                self._settle(token_word(sub.token), batch.token)
            return {sub.id: verdict for sub in unit.subs}
        return {sub.id: self._remote_id(unit, verdict, i) for i, sub in zip(unit.indices, unit.subs, strict=True)}

    def _remote_id(self, unit: Unit, unit_id: str, index: int) -> str:
        return self.queue.member_id(unit_id, index) if unit.is_array else unit_id

    def _answers_of_others(self, batch: Batch, lines: Iterable[str]) -> Answers:
        """Return the remote ids of jobs that were submitted before; the others may be submitted in another round."""
        tokens = {line.split(" ")[0] for line in lines}
        subs = [sub for sub in batch.subs if token_word(sub.token) in tokens]
        found = self.find([sub.token for sub in subs], batch.place)
        return {sub.id: found[sub.token] for sub in subs if sub.token in found}

    def _undoubted(self, batch: Batch, subs: Sequence[Submission], outcomes: dict[str, Outcome]) -> Answers:
        """Return the remote ids of jobs whose submit command does not know what it has done."""
        if not subs:
            return {}
        found = self.find([sub.token for sub in subs], batch.place)
        if len(found) < len(subs):
            said = {outcome.error for outcome in outcomes.values() if outcome.error}
            raise SchedulerError(f"the queue on {self._where(batch.place)} did not take jobs: {'; '.join(said)}")
        return {sub.id: found[sub.token] for sub in subs}

    def _verdict(self, outcome: Outcome) -> str | SubmitFailed | None:
        """Return the id of a unit, why it was not submitted, or None if the submit command does not tell."""
        if outcome.state == "void":
            return None
        said = f"{outcome.error}\n{outcome.answer}".strip()
        if outcome.status:
            if re.search(self.queue.full_pattern, said, re.IGNORECASE):
                return QueueFull(f"the queue takes no more jobs for now: {said}")
            killed = 128 < outcome.status <= _LAST_SIGNAL and not re.search(self.queue.refused_pattern, said)
            doubtful = killed or re.search(self.queue.doubt_pattern, said, re.IGNORECASE)
            return None if doubtful else SubmitFailed(f"the queue refused the job: {said or 'without a word'}")
        try:
            return self.queue.parse_answer(outcome.answer)
        except SchedulerError:
            return None

    # -- finding -------------------------------------------------------------------------------------------------

    def find(self, tokens: Sequence[str], place: str) -> dict[str, str]:
        """Return the remote ids of submitted jobs by token; what is missing was not submitted and will not be.

        Raises
        ------
        SchedulerError
            It could not be found out.
        """
        if not tokens:
            return {}
        words = {token_word(token): token for token in tokens}
        mark = protocol.new_mark()
        script, stdin = protocol.find_script(list(words), place, mark)
        done = self.queue.transport.run(self.queue.in_shell(script), stdin=stdin, timeout=_PATIENCE)
        try:
            told = protocol.read_find(done.text, mark)
        except SchedulerError as error:
            raise SchedulerError(f"{error} on {self._where(place)}: {done.error_text}") from None
        units = self._unit_ids(list(told.outcomes.values()), place)
        found: dict[str, str] = {}
        for word, _, token, index in told.lines:
            if token and word in words and (remote_id := self._found(told.outcomes.get(token), units, index)):
                found[words[word]] = remote_id
        for word, source, _, _ in told.lines:
            if words.get(word, "") not in found:
                self._settle(word, source)
        return found

    def _found(self, outcome: Outcome | None, units: dict[str, str], index: int) -> str | None:
        if outcome is None:
            return None
        if outcome.token not in units:
            return dict(outcome.ids).get(index)
        return units[outcome.token] if not outcome.is_array else self.queue.member_id(units[outcome.token], index)

    def _unit_ids(self, outcomes: Sequence[Outcome], place: str) -> dict[str, str]:
        going = [outcome for outcome in outcomes if outcome.state == "going"]
        if going:
            raise SchedulerError(f"jobs below {self._where(place)} are still being submitted; try again later")
        verdicts = {outcome.token: self._verdict(outcome) for outcome in outcomes if outcome.state != "void"}
        ids = {token: verdict for token, verdict in verdicts.items() if isinstance(verdict, str)}
        doubtful = [outcome for outcome in outcomes if outcome.token in verdicts and verdicts[outcome.token] is None]
        return {**ids, **self._ask_by_name(doubtful)}

    def _ask_by_name(self, outcomes: Sequence[Outcome]) -> dict[str, str]:
        if not outcomes:
            return {}
        units = [Unit(outcome.token, (), outcome.is_array) for outcome in outcomes]
        wait = f"sleep {self.queue.settle_time:g}\n" if any(outcome.young for outcome in outcomes) else ""
        done = self.queue.transport.run(self.queue.in_shell(wait + self.queue.names_script(units)), timeout=_PATIENCE)
        return self.queue.parse_names(done.text, units)

    def _settle(self, word: str, source: str) -> None:
        self._settled[word].add(f"{word} {source}")

    def _where(self, place: str) -> str:
        return f"{place or 'the home directory'} on {self.queue.host or 'this machine'}"
