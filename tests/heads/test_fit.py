"""Heads are what their definitions say: each is compared with the same thing done slowly."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from app.heads.calibration import calibration_error, fit_temperature
from app.heads.examples import Examples
from app.heads.fit import CannotFit, fit, measure
from app.heads.head import METHODS, Method, log_softplus, probabilities
from app.heads.methods import moments as moments_of
from app.heads.methods import ridge
from app.heads.methods.linear import Linear
from app.heads.methods.logistic import fit_logistic
from app.heads.methods.mean import fit_mean, leave_one_out
from app.heads.methods.moments import Moments
from app.heads.methods.ridge import fit_ridge
from tests.bounds import assert_equal_in_float32
from tests.heads.labelled import SPACE, clusters

COUNTS: list[Mapping[str, int]] = [{"a": 4, "b": 6, "c": 5}, {"a": 30, "b": 20, "c": 40}, {"a": 1, "b": 3, "c": 2}]
"""Fewer examples than dimensions, more, and a class with one."""


def solved(
    examples: Examples, strength: float, weights: NDArray[np.float64], heights: NDArray[np.float64]
) -> tuple[Any, Any]:
    """Weighted ridge regression by the normal equations of weights and a free bias."""
    vectors = np.hstack([examples.vectors.astype(np.float64), np.ones((len(examples), 1))])
    targets = np.zeros((len(vectors), len(examples.classes)))
    targets[np.arange(len(vectors)), examples.labels] = heights
    penalty = strength * np.eye(vectors.shape[1])
    penalty[-1, -1] = 0
    solution = np.linalg.solve(
        vectors.T @ (weights[:, None] * vectors) + penalty, vectors.T @ (weights[:, None] * targets)
    )
    return solution[:-1].T, solution[-1]


def balanced(examples: Examples) -> NDArray[np.float64]:
    return len(examples) / (len(examples.classes) * examples.counts[examples.labels])


@pytest.mark.parametrize("counts", COUNTS)
def test_ridge_is_the_solution_of_the_normal_equations(counts: Mapping[str, int]) -> None:
    examples = clusters(counts)
    found = fit_ridge(examples)
    assert found.strength is not None
    weight, bias = solved(examples, found.strength, balanced(examples), np.ones(len(examples)))
    np.testing.assert_allclose(found.weight.numpy(), weight, atol=1e-9)
    np.testing.assert_allclose(found.bias.numpy(), bias, atol=1e-9)


@pytest.mark.parametrize("counts", COUNTS)
def test_the_left_out_answers_of_ridge_are_those_of_fits_without_the_example(counts: Mapping[str, int]) -> None:
    """In such a fit the others of its class stand for it too: their targets are higher by its share."""
    examples = clusters(counts)
    found = fit_ridge(examples)
    assert found.strength is not None
    for place in range(len(examples)):
        label = examples.labels[place]
        kept = [other for other in range(len(examples)) if other != place]
        count = examples.counts[label]
        heights = np.where(examples.labels[kept] == label, count / max(count - 1, 1), 1)
        weight, bias = solved(examples.at(kept), found.strength, balanced(examples)[kept], heights)
        expected = weight @ examples.vectors[place].astype(np.float64) + bias
        assert bool(found.answered[place]) == (count > 1)
        assert_equal_in_float32(found.left_out[place].numpy(), expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_head_that_grows_is_the_one_that_is_fitted_anew(method: Method) -> None:
    """With more examples of old and of new classes, and with others of which nothing was known."""
    grown, moments = clusters({"a": 30, "b": 20, "c": 40}, noise=2), Moments()
    for more in ({"b": 1}, {"a": 3, "d": 6}, {"e": 2}):
        fit(grown, SPACE, method, moments)
        grown = grown.with_more(clusters(more, noise=2, seed=len(grown)))
    for examples in (grown, grown.at([*range(50), *range(60, len(grown))])):
        head, likely = fit(examples, SPACE, method, moments)
        anew, expected = fit(examples, SPACE, method)
        np.testing.assert_allclose(head.weight, anew.weight, atol=1e-6)
        np.testing.assert_allclose(likely, expected, atol=1e-5)
        assert head.quality.accuracy == anew.quality.accuracy


def test_few_of_many_examples_choose_the_strength_that_all_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = clusters({"a": 300, "b": 200, "c": 1}, noise=3)
    few = fit_ridge(examples)
    monkeypatch.setattr(ridge, "MOST_JUDGES", 100)
    assert fit_ridge(examples).strength == pytest.approx(few.strength, rel=1e-5)  # the next one is 3 times as much


def test_blocks_of_a_matrix_give_what_it_gives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = clusters({"a": 30, "b": 20, "c": 40})
    whole = fit_ridge(examples)
    for module in (ridge, moments_of):
        monkeypatch.setattr(module, "ROWS", 7)
        monkeypatch.setattr(module, "COLUMNS", 10)
    blocks = fit_ridge(examples)
    np.testing.assert_allclose(blocks.weight.numpy(), whole.weight.numpy(), atol=1e-9)
    assert_equal_in_float32(blocks.left_out.numpy(), whole.left_out.numpy())


@pytest.mark.parametrize("method", [fit_ridge, fit_mean])
def test_a_few_of_each_class_are_left_out_as_all_are(method: Callable[..., Linear]) -> None:
    examples = clusters({"a": 300, "b": 200, "c": 1, "d": 2}, noise=3)
    every, few = method(examples), method(examples, most=50)
    assert few.places is not None
    assert torch.equal(few.weight, every.weight)
    assert_equal_in_float32(few.left_out, every.left_out[few.places])
    assert torch.equal(few.answered, every.answered[few.places])
    labels = examples.labels[few.places]
    assert np.bincount(labels).tolist() == [30, 20, 1, 1]  # 503 examples, and the first of each class


def test_what_is_said_of_a_few_is_said_of_the_right_ones() -> None:
    examples = clusters({"a": 300, "b": 200}, noise=0.1)
    wrong = examples.labels.copy()
    wrong[::10] = 1 - wrong[::10]
    examples = replace(examples, labels=wrong)
    head, likely = fit(examples, SPACE, most_left_out=60)
    assert head.quality.by == f"leave-one-out of {len(likely)} examples"
    assert head.quality.answered == len(head.reference) == len(likely) < 70
    assert head.quality.suspects
    assert all(place % 10 == 0 and answer != wrong[place] for place, answer, _ in head.quality.suspects)
    assert fit(examples, SPACE)[0].quality.by == "leave-one-out"


def test_the_strength_is_kept_while_few_examples_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is chosen at 30 and 31, below the least number, at 104, the next power, and for a new class; not at 101."""
    monkeypatch.setattr(ridge, "FEW", 50)
    chosen: list[int] = []
    choose = ridge._choose

    def noted(examples: Examples, *rest: Any) -> float:
        chosen.append(len(examples))
        return choose(examples, *rest)

    monkeypatch.setattr(ridge, "_choose", noted)
    both, moments, head = clusters({"a": 60, "b": 60}, noise=3), Moments(), None
    both = both.at(np.random.default_rng(0).permutation(len(both)).tolist())
    for count in (30, 31, 100, 101, 102, 103, 104, 105):
        grown = both.at(list(range(count)))
        head, _ = fit(grown, SPACE, moments=moments, before=head)
        assert head.strength
        weight, _ = solved(grown, head.strength, balanced(grown), np.ones(count))
        np.testing.assert_allclose(head.weight, weight, atol=1e-6)
    fit(grown.with_more(clusters({"c": 2})), SPACE, moments=moments, before=head)
    assert chosen == [30, 31, 100, 104, 107]


@pytest.mark.parametrize("counts", COUNTS)
def test_the_left_out_cosines_are_those_with_the_mean_of_the_others(counts: Mapping[str, int]) -> None:
    examples = clusters(counts)
    moments = Moments()
    moments.update(examples)
    _, cosines, answered = leave_one_out(examples, moments.sums, torch.arange(len(examples)))
    for place in range(len(examples)):
        for label in range(len(examples.classes)):
            others = [one for one in range(len(examples)) if one != place and examples.labels[one] == label]
            if not others:
                assert not answered[place]
                continue
            mean = examples.vectors[others].astype(np.float64).mean(0)
            expected = examples.vectors[place] @ mean / np.linalg.norm(mean)
            assert cosines[place, label].item() == pytest.approx(expected, abs=1e-6)


def test_logistic_is_the_minimum_of_its_objective() -> None:
    examples = clusters({"a": 8, "b": 9, "c": 7})
    head, _ = fit(examples, SPACE, "logistic")
    vectors, labels = torch.from_numpy(examples.vectors).double(), torch.from_numpy(examples.labels).long()
    weight = torch.from_numpy(head.weight).double().requires_grad_()
    bias = torch.from_numpy(head.bias).double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(vectors @ weight.T + bias, labels, reduction="sum")
    assert head.strength is not None
    (loss + (weight**2).sum() / (2 * head.strength)).backward()
    assert weight.grad is not None
    assert weight.grad.abs().max() < 1e-2
    assert head.quality.by == "held out in 5 parts"


def test_held_out_scores_of_logistic_are_as_large_as_those_that_the_head_gives_to_others() -> None:
    """Fits of parts have smaller weights, so that their scores would ask for too low a temperature."""
    counts = {str(number): 5 for number in range(12)}
    train, others = clusters(counts, dim=32, noise=2), clusters(dict.fromkeys(counts, 40), dim=32, noise=2)
    found = fit_logistic(train)
    scores = torch.from_numpy(others.vectors).double() @ found.weight.T + found.bias
    ratio = scores.std(1).mean() / found.left_out.std(1).mean()
    assert float(ratio) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_easy_is_answered(method: Method) -> None:
    train, test = clusters({"a": 12, "b": 12}, noise=0.4), clusters({"a": 40, "b": 40}, noise=0.4)
    head, likely = fit(train, SPACE, method)
    quality, _ = measure(head, test.vectors, [test.classes[label] for label in test.labels])
    assert head.quality.accuracy == quality.accuracy == 1
    assert likely.shape == (24, 2)
    np.testing.assert_allclose(likely.sum(1), 1, atol=1e-5)
    assert head.quality.recall == (1, 1)
    assert not head.quality.confusions


@pytest.mark.parametrize("method", ["ridge", "mean"])
def test_one_example_of_each_class_gives_a_head_of_unknown_quality(method: Method) -> None:
    head, _ = fit(clusters({"a": 1, "b": 1, "c": 1}, noise=0.2), SPACE, method)
    assert head.quality.accuracy is None
    assert head.quality.calibration_error is None
    assert head.quality.recall == (None, None, None)
    assert not head.calibrated
    assert head.distances(head.examples.vectors) == [None, None, None]
    assert (head.probabilities(head.examples.vectors).argmax(1) == head.examples.labels).all()


@pytest.mark.parametrize("method", ["ridge", "mean"])
def test_a_class_of_one_has_no_recall_and_others_have(method: Method) -> None:
    head, _ = fit(clusters({"a": 1, "b": 5, "c": 5}, noise=0.2), SPACE, method)
    assert head.quality.recall[0] is None
    assert head.quality.recall[1:] == (1, 1)
    assert head.quality.answered == 10


def test_a_class_with_more_examples_is_not_preferred() -> None:
    test = clusters({"a": 300, "b": 300}, noise=1.6)
    few = [*range(5), *range(300, 500)]
    head, _ = fit(test.at(few), SPACE)
    answers = head.probabilities(test.vectors).argmax(1)
    assert 0.4 < (answers == 0).mean() < 0.6


def test_examples_that_nothing_can_be_fitted_from_are_refused() -> None:
    with pytest.raises(CannotFit, match="only the class 'a'"):
        fit(clusters({"a": 3}), SPACE)
    with pytest.raises(CannotFit, match="'logistic' needs two images of each class or more, and 'b' has 1"):
        fit(clusters({"a": 3, "b": 1}), SPACE, "logistic")
    same = clusters({"a": 2, "b": 2})
    with pytest.raises(CannotFit, match="the same vector"):
        fit(replace(same, vectors=np.tile(same.vectors[:1], (4, 1))), SPACE)


def test_a_wrong_label_is_found() -> None:
    examples = clusters({"a": 20, "b": 20}, noise=0.5)
    labels = examples.labels.copy()
    labels[3] = 1
    head, _ = fit(replace(examples, labels=labels), SPACE)
    (suspect,) = head.quality.suspects
    assert suspect[:2] == (3, 0)
    assert head.quality.confusions == ((1, 0, 1),)


def test_the_temperature_is_that_of_maximum_likelihood() -> None:
    """Of smoothed targets, by trying temperatures around it."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 200).astype(np.int32)
    logits = random.normal(size=(200, 4)) + 1.5 * np.eye(4)[labels]
    smooth = 1 / 202
    targets = np.full((200, 4), smooth / 4)
    targets[np.arange(200), labels] += 1 - smooth

    def loss(temperature: float) -> float:
        likely = probabilities(logits, temperature, None).astype(np.float64)
        return float(-(targets * np.log(likely)).sum())

    found = fit_temperature(logits, labels)
    assert loss(found) < min(loss(found * 1.02), loss(found / 1.02))


def test_answers_that_are_all_right_do_not_make_the_head_certain() -> None:
    labels = np.array([0, 1, 0, 1], np.int32)
    logits = np.eye(2)[labels]
    likely = probabilities(logits, fit_temperature(logits, labels), None)
    assert 0.7 < likely.max() < 0.99


def test_the_calibration_error_of_known_answers() -> None:
    likely = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10, np.float32)
    labels = np.array([0] * 9 + [1] + [1] * 3 + [0] * 7, np.int32)
    assert calibration_error(likely, labels) == pytest.approx(0.5 * 0 + 0.5 * 0.3, abs=1e-6)


def test_the_distance_of_what_is_like_nothing_is_small() -> None:
    examples = clusters({"a": 50, "b": 50}, noise=0.6)
    head, _ = fit(examples, SPACE)
    others = clusters({"a": 100, "b": 100}, noise=0.6)
    known = [distance for distance in head.distances(others.vectors) if distance is not None]
    assert 0.3 < np.mean(known) < 0.6
    far = clusters({"c": 20}, seed=7).vectors
    assert max(distance for distance in head.distances(far) if distance is not None) < 0.02


def test_the_nearest_examples_are_those_of_the_class_with_the_largest_cosines() -> None:
    examples = clusters({"a": 6, "b": 6})
    head, _ = fit(examples, SPACE)
    nearest = head.nearest(examples.vectors[8], 1, 3)
    assert nearest[0]["name"] == "8.png"
    assert nearest[0]["digest"] == f"{8:032x}"
    assert nearest[0]["cosine"] == pytest.approx(1, abs=1e-6)
    cosines = sorted((examples.vectors[6:] @ examples.vectors[8]).tolist(), reverse=True)
    assert [one["cosine"] for one in nearest] == pytest.approx(cosines[:3], abs=1e-6)


def test_a_softplus_is_finite_far_from_zero() -> None:
    values = np.array([-1e4, -20.5, -20.0, 0.0, 1e4])
    found = log_softplus(values)
    assert np.isfinite(found).all()
    assert found[1] == pytest.approx(-20.5)
    assert found[3] == pytest.approx(np.log(np.log(2)))
    assert (np.diff(found) > 0).all()
