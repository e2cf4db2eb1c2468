"""Hundreds of right answers are accepted, nine hundred wrong ones rejected, and none misnamed."""

import importlib.util
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

from dino_tutorial.exercises import checking, pinned
from dino_tutorial.exercises.checking import judge, observe, same
from dino_tutorial.exercises.exercise import Answer, Mistaken
from dino_tutorial.exercises.registry import EXERCISES

HERE = Path(__file__).parent
DRAW = 7  # the fresh probes, here always the same
MOST_AN_ANSWER = 15


def _load(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    __import__("sys").modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


RIGHT, MUTATIONS = _load("right_answers"), _load("mutations")
WRONG, FRESH = _load("wrong_answers").WRONG, _load("more_wrong_answers").FRESH
ANSWERS = {
    name: value
    for module in (RIGHT, _load("more_right_answers"))
    for name, value in vars(module).items()
    if "__" in name.strip("_") and callable(value)
}
# Mutants that are right all the same, each with the reason.
EQUIVALENT = dict(
    line.split("  ", 1)
    for line in (HERE / "equivalent.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)
GENERIC = ("other", "far-too-large", "far-too-small")


# A thousand answers meet the same few draws here: what is right on each is worked out once.
expected_of = checking.expected_of


@pytest.fixture(autouse=True, scope="module")
def expected_once():
    checking.expected_of = cache(expected_of)
    yield
    checking.expected_of = expected_of


def _spread(found, most):
    """At most so many of them, kinds in turn, so that each kind is there."""
    by_kind = defaultdict(list)
    for mutant in found:
        by_kind[mutant.kind].append(mutant)
    chosen = []
    while len(chosen) < most and any(by_kind.values()):
        for kind in list(by_kind):
            if by_kind[kind] and len(chosen) < most:
                chosen.append(by_kind[kind].pop(0))
    return chosen


def _first_answers():
    first = {}
    for name in ANSWERS:
        first.setdefault(name.split("__")[0], name)
    return first


def test_there_are_three_hundred_right_answers_four_for_each_exercise():
    assert len(ANSWERS) >= 300
    counts = Counter(name.split("__")[0] for name in ANSWERS)
    assert counts.keys() == EXERCISES.keys() and min(counts.values()) >= 4


@pytest.mark.parametrize("answer", ANSWERS)
def test_right_answers_in_other_styles_are_accepted(answer):
    exercise, function = EXERCISES[answer.split("__")[0]], ANSWERS[answer]
    verdict = judge(exercise, function, DRAW)
    assert verdict, verdict
    seen = observe(Answer(exercise, function), DRAW + 1)
    assert same(seen, checking.expected_of(exercise, DRAW + 1))


IN_PLACE = ("ema_update", "clip_gradients")  # what these return does not matter
ENDLESS = (  # mutants that never end
    "draw_boxes__loop_over_tries:comparison:0",
    "draw_boxes__loop_over_tries:off-by-one:0",
    "even_shares__one_at_a_time:condition:0",
)
ENOUGH = 0.5  # seconds, after which they are ended
VERDICTS: dict = {}  # by a mutant's name


@cache
def _verdicts(answer):
    """An answer's mutants with their verdicts: made and judged once."""
    exercise = EXERCISES[answer.split("__")[0]]
    found = _spread(MUTATIONS.mutants(RIGHT, answer), MOST_AN_ANSWER)
    for mutant in found:
        if mutant.name not in VERDICTS:
            VERDICTS[mutant.name] = _judge_mutant(exercise, mutant)
    return {mutant.name: (mutant, VERDICTS[mutant.name]) for mutant in found}


def _judge_mutant(exercise, mutant):
    if mutant.name not in ENDLESS:
        return judge(exercise, mutant.function, DRAW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pinned, "TIME_LIMIT", ENOUGH)
        return judge(exercise, mutant.function, DRAW)


@pytest.fixture(params=list(_first_answers().values()))
def judged(request):
    return _verdicts(request.param)


@pytest.mark.slow
def test_wrong_answers_are_rejected(judged):
    accepted = [name for name, (_, verdict) in judged.items() if verdict]
    assert [name for name in accepted if name not in EQUIVALENT] == []
    assert [name for name in judged if name in EQUIVALENT and name not in accepted] == []


@pytest.mark.parametrize("name, answer, mistakes", WRONG)
def test_mistakes_that_people_make_are_rejected(name, answer, mistakes):
    verdict = judge(EXERCISES[name], answer, DRAW)
    assert not verdict
    assert not mistakes or verdict.mistake in mistakes, verdict


@pytest.mark.parametrize("name", FRESH)
def test_mistakes_that_people_make_get_their_names(name):
    answer, mistake = FRESH[name]
    verdict = judge(EXERCISES[name.split(":")[0]], answer, DRAW)
    assert not verdict
    assert mistake in (None, verdict.mistake), verdict


@pytest.mark.slow
def test_no_wrong_cause_is_named(judged):
    for mutant, verdict in judged.values():
        if mutant.kind == "exception":
            assert verdict.mistake == "error", verdict
        if mutant.kind == "none" and mutant.exercise not in IN_PLACE:
            assert verdict.mistake in ("none", "error") or verdict.mistake.startswith(
                ("not-", "nothing")
            ), (mutant.name, verdict)
        known = {mistake.name: mistake for mistake in EXERCISES[mutant.exercise].mistakes}
        if verdict.mistake in known and known[verdict.mistake].forms:
            _behaves_like(mutant, known[verdict.mistake])


def _behaves_like(mutant, mistake):
    """Whoever is said to make a mistake does what the mistake does, on probes not seen before."""
    exercise = EXERCISES[mutant.exercise]
    try:
        seen = observe(Answer(exercise, mutant.function), 11)
    except Mistaken as raised:
        assert raised.name == mistake.name, mutant.name
        return
    forms = [checking.expected_of(exercise, 11, **form) for form in mistake.forms]
    assert any(same(seen, form) for form in forms), (mutant.name, mistake.name)


@pytest.mark.slow
def test_seven_hundred_wrong_answers_and_few_of_them_without_a_reason():
    """How many mutants there are, and how many get a generic message."""
    for answer in _first_answers().values():
        _verdicts(answer)
    wrong = {name: v for name, v in VERDICTS.items() if name not in EQUIVALENT}
    generic = [name for name, verdict in wrong.items() if verdict.mistake in GENERIC]
    assert len(wrong) >= 700
    assert len(generic) <= 0.1 * len(wrong), (len(generic), len(wrong), generic)
