"""The mix that is chosen is one that no single change makes better."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from activity_embeddings.training.evaluation.mixing import WEIGHTS, Mix, best_mix
from activity_embeddings.training.fitting.validation import SHARES


@given(st.lists(st.booleans(), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_no_worse_than_where_it_began_and_of_values_that_may_be(wanted, random):
    figures = {}

    def figure(mix):
        return figures.setdefault(mix, random.random())

    best = best_mix(figure, wanted)
    assert best.share in SHARES and len(best.weights) == len(wanted)
    began = tuple(float(each) for each in wanted)
    if len(wanted) == 1:
        assert best.weights == began
    assert all(figures[best] >= figure(Mix(share, began)) for share in SHARES)


@given(
    st.lists(st.sampled_from(WEIGHTS), min_size=1, max_size=3),
    st.sampled_from(SHARES),
    st.data(),
)
def test_a_figure_of_one_summit_is_climbed(weights, share, data):
    wanted = data.draw(st.lists(st.booleans(), min_size=len(weights), max_size=len(weights)))
    if len(wanted) == 1:
        weights = [float(wanted[0])]

    def figure(mix):
        return -abs(mix.share - share) - sum(
            abs(ours - best) for ours, best in zip(mix.weights, weights, strict=True)
        )

    every = itertools.product(SHARES, *[WEIGHTS if len(wanted) > 1 else weights] * len(weights))
    assert figure(best_mix(figure, wanted)) == max(figure(Mix(s, w)) for s, *w in every)


def test_of_equal_figures_the_first_counts():
    assert best_mix(lambda mix: 0.0, [True, False]) == Mix(SHARES[0], (1.0, 0.0))
