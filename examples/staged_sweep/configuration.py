"""The configuration of a sweep: targets and samplers, each with an id that is made from what it says."""

from dataclasses import dataclass
from difflib import get_close_matches

import samplers
import targets
import yaml

from expyre.identity import digest


@dataclass(frozen=True, eq=False)
class TargetTask:
    id: str
    options: dict


@dataclass(frozen=True, eq=False)
class RunTask:
    id: str
    target: TargetTask
    options: dict

    @property
    def name(self):
        return f"{self.target.id}_{self.options['sampler']}_{self.id}"


def read(path):
    """Return tasks of stage A, tasks of stage B and resources of jobs; mistakes are reported together."""
    try:
        with open(path, encoding="utf-8") as file:
            given = yaml.safe_load(file) or {}
    except (OSError, yaml.YAMLError) as error:
        raise SystemExit(f"{path}: {error}") from None
    mistakes = []
    check_names(given, {"targets", "samplers", "resources"}, "", mistakes)
    models = [filled(entry, "model", targets.DEFAULTS, mistakes) for entry in given.get("targets") or []]
    ways = [filled(entry, "sampler", samplers.DEFAULTS, mistakes) for entry in given.get("samplers") or []]
    if not models or not ways:
        mistakes.append("at least one target and one sampler are needed")
    if mistakes:
        raise SystemExit(f"{path}: " + "; ".join(mistakes))
    builds = list({each.id: each for each in map(target_task, models)}.values())
    runs = list({each.id: each for build in builds for way in ways for each in [run_task(build, way)]}.values())
    return builds, runs, given.get("resources") or {}


def filled(entry, kind, defaults, mistakes):
    """Return an entry with what it leaves out."""
    name = entry.get(kind) if isinstance(entry, dict) else None
    if name not in defaults:
        mistakes.append(f"{entry}: {kind} must be one of {', '.join(defaults)}")
        return {}
    check_names(entry, {kind, *defaults[name]}, f"{kind} {name}: ", mistakes)
    return {kind: name, **defaults[name], **entry}


def check_names(given, known, where, mistakes):
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            mistakes.append(f"{where}{name!r} is unknown" + (f" (did you mean {near[0]!r}?)" if near else ""))


def target_task(options):
    content = digest(options)
    return TargetTask(f"tgt_{content[:6]}", {**options, "seed": seed(content)})


def run_task(target, options):
    content = digest((target.id, options))
    return RunTask(content[:8], target, {**options, "seed": seed(content)})


def seed(content):
    """Return the seed that belongs to a digest: wherever a task runs, it draws the same numbers."""
    return int(content[:15], 16)
