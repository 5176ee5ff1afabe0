import math

import numpy as np
import pytest
import scipy.stats

from meta_train.evaluate import statistics
from meta_train.evaluate.statistics import Figure, Share

A = [0.30, 0.25, 0.40, 0.35, 0.20]
B = [0.33, 0.30, 0.41, 0.37, 0.29]


def test_student_by_hand():
    # mean 2, s = 1, t_{2, 0.975} = 4.30265: half width 4.30265 / sqrt(3)
    figure = statistics.student_t([1.0, 2.0, 3.0])
    assert figure.mean == 2.0
    assert figure.n == 3
    assert figure.high is not None and figure.low is not None
    assert figure.high - 2.0 == pytest.approx(2.484137, abs=1e-6)
    assert 2.0 - figure.low == pytest.approx(2.484137, abs=1e-6)


def test_student_is_that_of_scipy():
    figure = statistics.student_t(A)
    expected = scipy.stats.ttest_1samp(A, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose((figure.low, figure.high), (expected.low, expected.high), rtol=1e-12)


@pytest.mark.parametrize("values, expected", [([], Figure(None, None, None, 0)), ([2.0], Figure(2.0, None, None, 1))])
def test_too_few_values_have_no_interval(values, expected):
    assert statistics.student_t(values) == expected


def test_paired_difference_is_that_of_scipy():
    figure = statistics.paired_difference(A, B)
    expected = scipy.stats.ttest_rel(A, B).confidence_interval(0.95)
    np.testing.assert_allclose((figure.low, figure.high), (expected.low, expected.high), rtol=1e-12)


def test_pairing_narrows_the_interval():
    # The differences of a and a shifted a do not vary at all.
    figure = statistics.paired_difference(A, [a + 0.1 for a in A])
    np.testing.assert_allclose((figure.mean, figure.low, figure.high), -0.1, rtol=1e-6)


def test_ratio_of_logs_by_hand():
    # logarithms 0 and ln 4: mean ln 2, s = ln 4 / sqrt(2), half width t_{1} ln 4 / 2 = 12.7062 ln 2
    figure = statistics.ratio_of_logs([0.0, math.log(4.0)])
    np.testing.assert_allclose(figure.mean, 2.0, rtol=1e-12)
    np.testing.assert_allclose(figure.high, 2.0 ** (1 + 12.7062047), rtol=1e-6)
    assert statistics.ratio_of_logs([]) == Figure(None, None, None, 0)


def test_paired_p_is_that_of_scipy():
    assert statistics.paired_p(A, B) == pytest.approx(scipy.stats.ttest_rel(A, B).pvalue, rel=1e-12)
    assert statistics.paired_p(B, A) == pytest.approx(scipy.stats.ttest_rel(A, B).pvalue, rel=1e-12)


@pytest.mark.parametrize("a, b, p", [([1.0], [2.0], None), ([], [], None), ([1.0] * 3, [2.0] * 3, 0.0), (A, A, 1.0)])
def test_paired_p_without_spread_or_pairs(a, b, p):
    assert statistics.paired_p(a, b) == p


def test_rank_and_sign_tests_cannot_decide_with_five_seeds():
    """Why the test is Student's: differences as clear as can be."""
    assert scipy.stats.wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0]).pvalue == pytest.approx(2 / 2**5)
    assert scipy.stats.wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).pvalue == pytest.approx(2 / 2**6)
    assert 2 / 2**5 > 0.05 > 2 / 2**6


def test_holm_by_hand():
    # sorted .01 .02 .03 .04: times 4, 3, 2, 1 = .04 .06 .06 .04, and never below the one before
    assert statistics.holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([0.03]) == [0.03]
    assert statistics.holm([]) == []


def test_share_has_the_interval_of_clopper_and_pearson():
    # Of none of n the upper end is 1 - (0.05 / 2)^(1 / n), of all the lower end (0.05 / 2)^(1 / n).
    none, every = statistics.share(0, 10), statistics.share(10, 10)
    assert (none.share, none.low, every.share, every.high) == (0.0, 0.0, 1.0, 1.0)
    assert none.high == pytest.approx(1 - 0.025**0.1)
    assert every.low == pytest.approx(0.025**0.1)
    # Quantiles of the beta distributions otherwise.
    some = statistics.share(17, 20)
    assert (some.count, some.n, some.share) == (17, 20, 0.85)
    assert some.low == pytest.approx(scipy.stats.beta.ppf(0.025, 17, 4))
    assert some.high == pytest.approx(scipy.stats.beta.ppf(0.975, 18, 3))
    assert statistics.share(0, 0) == Share(0, 0, None, None, None)


def test_one_stratum_is_student():
    one, student = statistics.mean_over_strata([A]), statistics.student_t(A)
    assert one.n == student.n
    np.testing.assert_allclose((one.mean, one.low, one.high), (student.mean, student.low, student.high), rtol=1e-12)


def test_two_strata_are_welch():
    # Half of the Welch interval of mean(A) - mean(-C) is that of (mean(A) + mean(C)) / 2.
    c = [1.0, 1.5, 0.7]
    figure = statistics.mean_over_strata([A, c])
    expected = scipy.stats.ttest_ind(A, [-x for x in c], equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose((figure.low, figure.high), (expected.low / 2, expected.high / 2), rtol=1e-9)
    assert figure.n == 8


def test_strata_without_spread_or_with_one_value():
    assert statistics.mean_over_strata([[1.0, 1.0], [3.0, 3.0]]) == Figure(2.0, 2.0, 2.0, 4)
    assert statistics.mean_over_strata([[1.0], [3.0, 4.0]]) == Figure(2.25, None, None, 3)
    assert statistics.mean_over_strata([]) == Figure(None, None, None, 0)


def test_coverage_of_the_interval_over_strata():
    """About 95 of 100 intervals hold the truth, for groups of unequal spread."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        figure = statistics.mean_over_strata([rng.normal(1.0, s, 5).tolist() for s in (0.1, 1.0, 3.0)])
        assert figure.low is not None and figure.high is not None
        hits += figure.low <= 1.0 <= figure.high
    # Welch-Satterthwaite is approximate: within a point and a half, three standard errors.
    assert abs(hits / 2000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000)
